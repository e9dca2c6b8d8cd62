"""The files of a run: packed tiles in HDF5, their journals and checksums, and small arrays.

The kernel file survives a kill at any moment. It is created whole under a temporary name, closed
and renamed into place; after that nothing but raw tile bytes changes in it, each tile one
contiguous write. A tile counts as done only once it is on disk AND its line is in the journal of
the rank that wrote it, so a restart reads the journals of all ranks and computes what is missing,
on any number of ranks. The last act fills in two data sets that exist since creation: the
checksums, then the one byte that says the file is complete.
"""

from hpcnk.store.arrays import (
    check_arrays,
    read_all_arrays,
    read_arrays,
    read_attributes,
    read_forms,
    read_rows,
    read_shape,
    write_arrays,
    write_text,
)
from hpcnk.store.documents import parse_mapping, read_mapping, read_regular
from hpcnk.store.drivers import Driver, choose_driver, library
from hpcnk.store.files import Copies, aligned_empty, storage_errors
from hpcnk.store.journal import finished_tiles, read_journals
from hpcnk.store.layout import Layout, create, read_layout
from hpcnk.store.own import make_own_folder, open_own, require_own_folder, require_regular
from hpcnk.store.provenance import differences
from hpcnk.store.reader import TileReader
from hpcnk.store.variances import (
    VariancesLayout,
    VariancesReader,
    VariancesWriter,
    create_variances,
    mark_variances_complete,
    read_variances_layout,
    variances_bytes,
)
from hpcnk.store.writer import (
    TileWriter,
    mark_complete,
    replace_tile,
    tile_checksum,
    write_tile_bytes,
)

__all__ = [
    "Copies",
    "Driver",
    "Layout",
    "TileReader",
    "TileWriter",
    "VariancesLayout",
    "VariancesReader",
    "VariancesWriter",
    "aligned_empty",
    "check_arrays",
    "choose_driver",
    "create",
    "create_variances",
    "differences",
    "finished_tiles",
    "library",
    "make_own_folder",
    "mark_complete",
    "mark_variances_complete",
    "open_own",
    "parse_mapping",
    "read_all_arrays",
    "read_arrays",
    "read_attributes",
    "read_forms",
    "read_journals",
    "read_layout",
    "read_mapping",
    "read_regular",
    "read_rows",
    "read_shape",
    "read_variances_layout",
    "replace_tile",
    "require_own_folder",
    "require_regular",
    "storage_errors",
    "tile_checksum",
    "variances_bytes",
    "write_arrays",
    "write_text",
    "write_tile_bytes",
]
