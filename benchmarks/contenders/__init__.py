"""The programs that are compared: a bare loop, aiometrics and its peers."""
