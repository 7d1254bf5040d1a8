"""What each path does, one file for each noun."""
