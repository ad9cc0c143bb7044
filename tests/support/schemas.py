"""Validates files against the committed JSON Schemas with Python's jsonschema.

Arguments: the folder of the schemas, a manifest.json, a latest.json, an owner.json.
"""

import copy
import json
import pathlib
import sys

import jsonschema

folder = pathlib.Path(sys.argv[1])
for kind, path in zip(["manifest", "latest", "owner"], sys.argv[2:], strict=True):
    schema = json.loads((folder / f"{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    value = json.loads(pathlib.Path(path).read_text())
    validator.validate(value)
    # The schema names every field that is there, at every level that is not free.
    unknown = value.keys() - schema["properties"].keys()
    assert not unknown, f"{kind}: the schema lacks {unknown}"
    # And refuses what is not such a file: without a field, with one of another type, of another version.
    for field in schema["required"]:
        broken = copy.deepcopy(value)
        del broken[field]
        assert not validator.is_valid(broken), f"{kind} without {field}"
    for field in value.keys() - {"configuration"}:
        assert not validator.is_valid(value | {field: {"a": "b"}}), f"{kind} with another {field}"
    assert not validator.is_valid(value | {"schema_version": value["schema_version"] + 1}), kind
    if kind == "manifest":
        for section, field, wrong in [
            ("files", "sha256", "not hexadecimal"),
            ("files", "length", -1),
            ("tensors", "dtype", "F16"),
            ("tensors", "role", {"kind": "ema"}),
            ("parameters", "shape", [1.5]),
        ]:
            broken = copy.deepcopy(value)
            broken[section][0][field] = wrong
            assert not validator.is_valid(broken), f"{section}: {field} = {wrong}"
print("valid")
