from ir import cli

cli.tell_interruption()
