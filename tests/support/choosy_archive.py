"""An archive, by pynetdicom, that refuses some patients' reports: port, a file.

The file names the patients, one a line; it is read anew for each instance.
"""

import sys
from pathlib import Path

from pynetdicom import AE, evt

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
CANNOT_UNDERSTAND = 0xC000

port, refused = int(sys.argv[1]), Path(sys.argv[2])


def store(event):
    is_refused = event.dataset.PatientID in refused.read_text().split()
    return CANNOT_UNDERSTAND if is_refused else 0


ae = AE(ae_title="ARCHIVE")
ae.add_supported_context(COMPREHENSIVE_3D_SR)
ae.start_server(("127.0.0.1", port), evt_handlers=[(evt.EVT_C_STORE, store)])
