"""What runs jobs: claims them, runs them, settles them, and keeps the process's leases and schedules."""
