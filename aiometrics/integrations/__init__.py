"""Connects aiometrics with frameworks. Only users import these modules, one for each framework."""
