#!/usr/bin/env bash
# The names of cells and genes in a new .h5ad file are a group of two arrays, not an array of strings.
#
# Guess before the run: obs/_index and var/_index are string arrays, as in every file that anndata wrote before, and a column of
# text in obs is one too.
# Versions: anndata 0.13.4 with pandas 3.1.1, h5py 3.16.0, Python 3.12. Source: anndata's specification of elements on disk,
# "nullable-string-array": a group with the arrays values and mask. pandas 3 gives string indexes its own string type, and anndata
# writes that type in this way, also where nothing is missing.
# Seen: obs/_index and var/_index are groups with encoding-type "nullable-string-array". A reader that expects an array gets no names, or
# fails. A column of text that is passed as strings comes back as a category, and integers with a missing value are a group as well.
# With pandas 2.3.3 and everything else the same, the names are arrays of strings. The script fails when any of this changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/write.py" <<'PY'
import sys
import warnings

warnings.simplefilter("ignore")
import anndata
import h5py
import numpy as np
import pandas as pd

cells = anndata.AnnData(np.ones((4, 2), np.float32))
cells.obs_names, cells.var_names = list("abcd"), ["gene1", "gene2"]
cells.obs["text"] = ["x", "y", "x", "z"]
cells.obs["integer"] = pd.array([1, None, 3, 4], dtype="Int64")
cells.write_h5ad(sys.argv[1])
with h5py.File(sys.argv[1]) as file:
    seen = {name: file[name].attrs["encoding-type"] for name in ("obs/_index", "var/_index", "obs/text", "obs/integer")}
    kind = type(file["obs/_index"]).__name__
print(pd.__version__, kind, seen)
if pd.__version__.startswith("3."):
    assert kind == "Group" and seen["obs/_index"] == seen["var/_index"] == "nullable-string-array"
else:
    assert kind == "Dataset" and seen["obs/_index"] == seen["var/_index"] == "string-array"
assert seen["obs/text"] == "categorical" and seen["obs/integer"] == "nullable-integer"
PY
for pandas in 3.1.1 2.3.3; do
  ${PYTHON:-python3.12} -m venv "$folder/$pandas"
  "$folder/$pandas/bin/pip" install -q --disable-pip-version-check anndata==0.13.4 "pandas==$pandas" h5py==3.16.0
  "$folder/$pandas/bin/python" "$folder/write.py" "$folder/$pandas.h5ad"
done
echo "as described"
