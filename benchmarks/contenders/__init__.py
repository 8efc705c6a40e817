"""What is compared: nothing, aiometrics and its peers."""
