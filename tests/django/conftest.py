"""What is in these directories belongs to programs that test_django.py runs."""

collect_ignore = ["contract", "project"]
