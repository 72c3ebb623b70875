"""Pushes DICOM files with pynetdicom: host, port, then the files.

Echoes, stores every file in one association, and prints a status a line. Then
breaks a second association off without a release.
"""

import sys

from pydicom import dcmread
from pynetdicom import AE

VERIFICATION = "1.2.840.10008.1.1"

host, port, *paths = sys.argv[1:]
sets = [dcmread(path) for path in paths]
ae = AE(ae_title="SCANNER")
ae.add_requested_context(VERIFICATION)
for data in sets:
    ae.add_requested_context(data.SOPClassUID, data.file_meta.TransferSyntaxUID)
association = ae.associate(host, int(port), ae_title="HEPAFLOW")
assert association.is_established, "no association"
print(f"echo {association.send_c_echo().Status:04X}")
for data in sets:
    print(f"store {association.send_c_store(data).Status:04X}")
association.release()

association = ae.associate(host, int(port), ae_title="HEPAFLOW")
assert association.is_established, "no second association"
association.abort()
