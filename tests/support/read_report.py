"""What a DICOM report says, as JSON: read by pydicom, and its tree by highdicom.

Usage: read_report.py FILE            a report
       read_report.py --picture FILE  a key frame
       read_report.py --cine FROM TO NUMBER DATE [PATIENT]   a cine of a patient with a Chinese name
"""

import json
import sys

from pydicom import dcmread


def references(data, keyword):
    return [
        {
            "study": study.StudyInstanceUID,
            "series": series.SeriesInstanceUID,
            "class": sop.ReferencedSOPClassUID,
            "uid": sop.ReferencedSOPInstanceUID,
        }
        for study in data.get(keyword, [])
        for series in study.ReferencedSeriesSequence
        for sop in series.ReferencedSOPSequence
    ]


def common(data):
    words = ["SOPInstanceUID", "SOPClassUID", "StudyInstanceUID", "SeriesInstanceUID"]
    words += ["PatientName", "PatientID", "StudyDate", "Modality", "InstanceNumber"]
    return {word: str(data.get(word, "")) for word in words}


def report(path):
    import highdicom

    data = dcmread(path)
    found = common(data)
    found["flags"] = [data.CompletionFlag, data.VerificationFlag]
    for keyword in ["CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"]:
        found[keyword] = references(data, keyword)
    found["predecessors"] = references(data, "PredecessorDocumentsSequence")

    found["snomed"] = snomed(data)
    document = highdicom.sr.Comprehensive3DSR.from_dataset(data)
    [group] = document.content.get_image_measurement_groups()
    found["tracking"] = group.tracking_uid
    found["finding"] = group.finding_type.value
    found["sites"] = [site.value.value for site in group.finding_sites]
    found["numbers"] = {it.name.value: it.value for it in group.get_measurements()}
    found["words"] = {it.name.value: it.value.value for it in group.get_qualitative_evaluations()}
    found["images"] = [
        {
            "name": item.ConceptNameCodeSequence[0].CodeValue,
            "uid": sop.ReferencedSOPInstanceUID,
            "frames": [int(n) for n in listed(sop.get("ReferencedFrameNumber"))],
        }
        for item in group[0].ContentSequence
        if item.ValueType == "IMAGE"
        for sop in item.ReferencedSOPSequence
    ]
    found["texts"] = {
        item.ConceptNameCodeSequence[0].CodeValue: item.TextValue
        for item in group[0].ContentSequence
        if item.ValueType == "TEXT"
    }
    return found


def snomed(data):
    """Every code of SNOMED CT, and whether PS3.16 lists it in a context group so."""
    from pydicom.sr._concepts_dict import concepts

    known = {
        (code, meaning.lower())
        for entry in concepts["SCT"].values()
        for code, (meaning, groups) in entry.items()
        if groups
    }
    found = []

    def walk(item):
        if item.get("CodingSchemeDesignator") == "SCT":
            code = (item.CodeValue, item.CodeMeaning.lower())
            found.append({"code": item.CodeValue, "meaning": item.CodeMeaning, "known": code in known})
        for element in item:
            if element.VR == "SQ":
                for below in element.value:
                    walk(below)

    walk(data)
    return found


def listed(value):
    return [] if value is None else [value] if isinstance(value, (int, str)) else list(value)


def picture(path):
    data = dcmread(path)
    found = common(data)
    [source] = data.SourceImageSequence
    found["source"] = source.ReferencedSOPInstanceUID
    found["frame"] = int(source.ReferencedFrameNumber)
    found["derivation"] = data.DerivationDescription
    pixels = data.pixel_array
    found["shape"] = list(pixels.shape)
    found["colours"] = int((pixels.max(axis=2) != pixels.min(axis=2)).sum())
    return found


def cine(source, to, number, date, patient="CANARY-7"):
    data = dcmread(source)
    data.SpecificCharacterSet = "GB18030"
    data.PatientName = "王^小明"
    data.PatientID = patient
    data.StudyDate = date
    data.StudyInstanceUID = f"2.25.90{number}"
    data.SeriesInstanceUID = f"2.25.91{number}"
    data.SOPInstanceUID = f"2.25.92{number}"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.save_as(to, enforce_file_format=True)


match sys.argv[1:]:
    case ["--picture", path]:
        print(json.dumps(picture(path)))
    case ["--cine", *words]:
        cine(*words)
    case [path]:
        print(json.dumps(report(path)))
