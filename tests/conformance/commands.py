"""How the suite is run under pytest, where nothing of hemspec loads by itself."""

UNDER_PYTEST = ("-p", "hemspec_conformance.plugin", "--pyargs", "hemspec_conformance")
