"""``aiometrics top``: the hotspots of a service in a terminal, from its pages or over HTTP."""
