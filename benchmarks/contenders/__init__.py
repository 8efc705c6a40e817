"""What is compared: a bare loop, aiometrics and its peers."""
