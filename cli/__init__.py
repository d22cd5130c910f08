"""The command `thaiyyal-node`: parses, calls a node, prints. Read first: main.py.

    main.py      the group of commands, and what becomes of every error
    exits.py     exit statuses
    options.py   options that several commands share; reading workflow files and inputs
    places.py    JSON path -> line and column in a file
    output.py    tables, progress, plain lines, JSON
    starting.py  `start`          running.py   `run`, `watch`
    asking.py    `list`, `get`, `history`, `cancel`, `status`, `workflows`
    checking.py  `validate`

Commands talk to a node by thaiyyal.client; only `start` and `run --local` load the engine.
"""
