"""What holds a job back although it is accepted: ends to come, a signal, its line; and recorded steps."""
