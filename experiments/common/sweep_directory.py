"""The directory of a sweep, which any number of processes can fill: one row per run.

    runs-DIGEST.parquet  the runs of one finished batch
    .claims              which process trains which run, see `experiments.common.claims`

Files are written under a temporary name, renamed, and never changed, so a process that is killed
loses none of its finished batches. Other tools can read all of them at once, for example
`duckdb.sql("from 'runs/sweep/*.parquet'")`.
"""

import contextlib
import hashlib
import io
import pathlib
from collections.abc import Collection, Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from experiments.common import claims, files
from experiments.common.config import UsageError

FORMAT_VERSION = 1

_PARTS = "runs-*.parquet"
_ABANDONED = 24 * 3600.0  # seconds; writing takes moments, so older temporary files are left over

_REMEDY = "if it is damaged, delete it, and a sweep will train its runs again"

SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # identifies the run: digest of the configuration and the data
        ("status", pa.string()),  # finished, or diverged (a loss is not finite)
        # What was run: the fields of `Config`, and the digest of the data.
        ("init", pa.string()),
        ("rules", pa.string()),  # what the name of an initializer stands for; null: it says so
        ("output_init", pa.string()),
        ("bias_init", pa.string()),
        ("seed", pa.int64()),
        ("model", pa.string()),
        ("hidden", pa.list_(pa.int64())),
        ("residual", pa.bool_()),
        ("normalization", pa.string()),
        ("activation", pa.string()),
        ("inputs", pa.string()),
        ("dtype", pa.string()),
        ("optimizer", pa.string()),
        ("learning_rate", pa.float64()),
        ("epochs", pa.int64()),
        ("steps", pa.int64()),  # null: as many as there are in the epochs
        ("batch_size", pa.int64()),
        ("scheme", pa.string()),  # null: initializers and learning rate as they are at this size
        ("base", pa.list_(pa.int64())),  # null without a scheme
        ("dataset", pa.string()),
        ("digest", pa.string()),
        # Results: of every epoch (val_: also before training, unless steps are counted), and of
        # every step.
        ("loss", pa.list_(pa.float64())),
        ("acc", pa.list_(pa.float64())),
        ("val_loss", pa.list_(pa.float64())),
        ("val_acc", pa.list_(pa.float64())),
        ("step_loss", pa.list_(pa.float32())),
        ("step_acc", pa.list_(pa.float32())),
        # Where and when.
        ("features", pa.int64()),  # inputs of the network: the pixels of an image, or of a patch
        ("classes", pa.int64()),
        ("test_images", pa.int64()),
        ("guess_acc", pa.float64()),  # of always predicting the most common class
        ("seconds", pa.float64()),  # wall time, divided by the runs of a batch
        ("finished", pa.timestamp("s", tz="UTC")),
        ("host", pa.string()),
        ("device", pa.string()),
        ("versions", pa.string()),  # such as "jax 0.10.2, flax 0.12.8"
    ],
    metadata={"format_version": str(FORMAT_VERSION)},
)


# Columns that older files lack, and what their runs have.
_ADDED = {
    "rules": None,
    "model": "mlp",
    "residual": False,
    "normalization": "none",
    "inputs": "unit",
    "steps": None,
    "scheme": None,
    "base": None,
}


class SweepDirectory:
    """A directory of results. Enter it as a context to add runs, which makes it if needed.

    Entering raises a UsageError if the directory can't be made or is not writable.
    """

    def __init__(self, directory: str | pathlib.Path):
        self.directory = pathlib.Path(directory)
        self._files: set[pathlib.Path] = set()
        self._finished: set[str] = set()
        self._claims = claims.Claims(self.directory / ".claims")

    def __enter__(self) -> "SweepDirectory":
        self._made = files.absent(self.directory)
        files.prepare(self.directory, "name another --workdir")
        # Left over by killed processes.
        now = files.now(self.directory)
        for temporary in self.directory.glob(f".{_PARTS}.*.tmp"):
            with contextlib.suppress(OSError):  # another process may have removed it
                if now - temporary.stat().st_mtime > _ABANDONED:
                    temporary.unlink()
        self._claims.__enter__()
        self._claims.tidy(self.finished())
        return self

    def __exit__(self, *error: Any) -> None:
        self._claims.__exit__(*error)
        if self._made and not self.finished():  # nothing is left behind if nothing was trained
            self._claims.clear()
            files.remove_empty(self._made)

    def finished(self) -> set[str]:
        """The keys of all runs in the directory now, from all processes."""
        new = set(self.directory.glob(_PARTS)) - self._files
        self._files |= new
        self._finished.update(
            key for file in new for key in _read(file, ["key"])["key"].to_pylist()
        )
        return self._finished

    def claim(self, keys: Iterable[str], most: int) -> list[str]:
        """Claims runs for this process, until they are added or the process ends.

        Args:
          keys: of the runs to choose from, in order of preference.
          most: the maximum number of runs to claim.

        Returns:
          The keys of runs that are neither finished nor claimed by another process.
        """
        # What isn't known to be finished is looked up after it was claimed.
        unknown = (key for key in keys if key not in self._finished)
        return self._claims.claim(unknown, most, self._finished_now)

    def doubt(self) -> float | None:
        """Seconds until more is known of the processes that hold claims, see `Claims.doubt`."""
        return self._claims.doubt()

    def add(self, rows: list[dict[str, Any]]) -> None:
        """Writes the runs of a finished batch to disk and releases the claims."""
        file = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), file, compression="zstd")
        keys = sorted(row["key"] for row in rows)
        name = _PARTS.replace("*", hashlib.sha256("".join(keys).encode()).hexdigest()[:16])
        files.write(self.directory / name, file.getvalue())
        self._claims.release(keys)

    def _finished_now(self) -> set[str]:
        files.now(self.directory)  # so that a network file system lists the directory anew
        return self.finished()


def read(
    directory: str | pathlib.Path, wanted: Collection[str] | None = None, *, steps: bool = True
) -> pa.Table:
    """Reads the runs of a directory, each once, in an order that depends only on the runs.

    Args:
      directory: see `SweepDirectory`.
      wanted: the keys of the runs to read; None means all.
      steps: whether to read the columns of every step, too, which are most of the data.

    Raises:
      UsageError: there are no runs, or a file can't be read.
    """
    columns = [name for name in SCHEMA.names if steps or not name.startswith("step_")]
    tables = [_read(file, columns) for file in sorted(pathlib.Path(directory).glob(_PARTS))]
    if not any(map(len, tables)):
        below = sorted({str(file.parent) for file in pathlib.Path(directory).glob(f"*/{_PARTS}")})
        run = "run python -m experiments.sweep first"
        advice = f"name a sweep: {' or '.join(below)}" if below else run
        raise UsageError(f"{directory} holds no runs; {advice}")
    table = pa.concat_tables(tables)  # without a copy
    keys, seeds = table["key"].to_pylist(), table["seed"].to_pylist()
    places = {key: place for place, key in enumerate(keys) if wanted is None or key in wanted}
    order = sorted(places.values(), key=lambda place: (seeds[place], keys[place]))
    return table.take(pa.array(order, pa.int64()))


def _read(file: pathlib.Path, columns: list[str] | None = None) -> pa.Table:
    try:
        table = pq.ParquetFile(file).read(columns)
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"cannot read {file}: {reason}; {_REMEDY}") from None
    version = (table.schema.metadata or {}).get(b"format_version", b"none").decode()
    if version != str(FORMAT_VERSION):
        raise UsageError(f"{file} has format version {version}, expected {FORMAT_VERSION}")
    for name in set(columns or SCHEMA.names) & _ADDED.keys() - set(table.column_names):
        values = pa.array([_ADDED[name]] * len(table), SCHEMA.field(name).type)
        table = table.append_column(name, values)
    if missing := set(columns or SCHEMA.names) - set(table.column_names):
        raise UsageError(f"{file} has no column {min(missing)}; {_REMEDY}")
    return table.select(columns or SCHEMA.names)
