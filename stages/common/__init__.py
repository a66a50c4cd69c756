"""What the stages share: paths, parameters, files and tables, and how a stage starts and ends."""
