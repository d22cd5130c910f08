"""Language level 2 (`"language": 2` in the payload): markers that do what their names say.

`grammar.py` reads an expression into closures (start there; its docstring has the grammar), `operators.py` says what
operators do to values, `functions.py` has the function table, `dates.py` the date functions, `templates.py` the
`{{ expression }}` in strings of a step's data.

Nothing here reads a clock or touches a socket; a process lends its clock through the scope.
"""
