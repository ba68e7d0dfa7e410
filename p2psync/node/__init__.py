"""Where the mechanisms meet: pulls, the serving node, and the verbs that the command line drives."""
