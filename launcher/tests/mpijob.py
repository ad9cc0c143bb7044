"""Validates each MPIJob on standard input, a YAML document, and prints one line for each.

The job's own fields are checked with mpijob-v2beta1.schema.json, which this project wrote from the operator's published
documentation, and its pods with Kubernetes' published schema, refusing unknown fields. If ADMIRAL_MPIJOB_CRD names the
operator's kubeflow.org_mpijobs.yaml, the whole job is checked with that too.
"""

import json
import os
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

KUBERNETES = "1.30"


def strict(schema):
    """Returns a custom resource's schema as a JSON Schema that refuses unknown fields, as `kubectl` does when strict."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) for key, value in schema.items()}
    if isinstance(result.get("properties"), dict) and not result.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string") is True:
        result["type"] = ["integer", "string"]
        result.pop("anyOf", None)
    return result


def published(path):
    for definition in yaml.safe_load_all(pathlib.Path(path).read_text()):
        for version in (definition or {}).get("spec", {}).get("versions", []):
            if version["name"] == "v2beta1":
                schema = strict(version["schema"]["openAPIV3Schema"])
                # A custom resource's schema leaves the metadata to Kubernetes.
                schema["properties"]["metadata"] = {"type": "object"}
                return schema
    raise SystemExit(f"{path} has no version v2beta1")


def check(job, own, crd):
    """Raises an error if the job is invalid."""
    jsonschema.validate(job, own, cls=jsonschema.Draft202012Validator)
    name = job["metadata"]["name"]
    for role, replica in job["spec"]["mpiReplicaSpecs"].items():
        # The operator derives the pods' host names from the job's name.
        host = f"{name}-{role.lower()}-{replica['replicas'] - 1}"
        if len(host) > 63:
            raise ValueError(f"{host} is longer than a host's name may be")
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": host}, **replica["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in pod["spec"]["containers"]:
            for mount in container["volumeMounts"]:
                if mount["name"] not in volumes:
                    raise ValueError(f"{role} mounts {mount['name']}, which is no volume")
    if crd:
        jsonschema.validate(job, crd, cls=jsonschema.Draft202012Validator)


def main():
    own = json.loads(pathlib.Path(__file__).with_name("mpijob-v2beta1.schema.json").read_text())
    path = os.environ.get("ADMIRAL_MPIJOB_CRD")
    crd = published(path) if path else None
    for job in yaml.safe_load_all(sys.stdin):
        try:
            check(job, own, crd)
            print("valid")
        except (ValueError, jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
            print("invalid:", str(error).partition("\n")[0])


main()
