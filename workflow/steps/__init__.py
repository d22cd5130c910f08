"""Step types: what each `type` of a workflow's nodes does.

Start with `base.py` (the interface of a step function and what it is given), then `registry.py` (the table of all
types); the functions are in files by family: `inputs_outputs`, `operations`, `data`, `extract_transform`, `control`,
`arrays` (with an expression per element), `array_shapes` (without), `state`, `resilience`, `schema`, `http`. What
follows Go's rules instead of Python's is in `casing`, `csv_text`, `json_text`, `xml_text`, `regexp` and `golang`;
which addresses may be reached is in `url_rules`.

Step functions do no I/O of their own. Two await: `http` the client and `retry` the sleep that Services lends.
"""
