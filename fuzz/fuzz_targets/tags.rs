#![no_main]

use hepaflow::ingest::doors;

/// What says where the tissue lies and when a frame was taken, and its VR:
/// timing first, then what describes a region.
const TAGS: [(u16, u16, &[u8; 2]); 16] = [
    (0x0008, 0x2144, b"IS"),
    (0x0018, 0x0040, b"IS"),
    (0x0018, 0x1063, b"DS"),
    (0x0018, 0x1065, b"DS"),
    (0x0028, 0x0008, b"IS"),
    (0x0028, 0x0009, b"AT"),
    (0x0018, 0x6012, b"US"),
    (0x0018, 0x6014, b"US"),
    (0x0018, 0x6018, b"UL"),
    (0x0018, 0x601A, b"UL"),
    (0x0018, 0x601C, b"UL"),
    (0x0018, 0x601E, b"UL"),
    (0x0018, 0x6024, b"US"),
    (0x0018, 0x6026, b"US"),
    (0x0018, 0x602C, b"FD"),
    (0x0018, 0x602E, b"FD"),
];
/// The first of them that lies in a region.
const OF_REGION: usize = 6;

/// An element in explicit little endian, its value made even.
fn element(tag: (u16, u16), vr: &[u8; 2], value: &[u8], into: &mut Vec<u8>) {
    let mut value = value.to_vec();
    value.resize(value.len().next_multiple_of(2), b' ');
    into.extend(tag.0.to_le_bytes());
    into.extend(tag.1.to_le_bytes());
    into.extend(vr);
    if matches!(vr, b"OB" | b"SQ") {
        into.extend([0, 0]);
        into.extend((value.len() as u32).to_le_bytes());
    } else {
        into.extend((value.len() as u16).to_le_bytes());
    }
    into.extend(value);
}

// An ultrasound picture of 2 x 2 around the values: each begins with a byte that
// says which tag and, in its upper half, how many bytes; 255 begins a new region.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (mut outer, mut region, mut regions) = (Vec::new(), Vec::new(), Vec::new());
    let end_region = |region: &mut Vec<u8>, regions: &mut Vec<u8>| {
        regions.extend([0xFE, 0xFF, 0x00, 0xE0]);
        regions.extend((region.len() as u32).to_le_bytes());
        regions.append(region);
    };
    let mut rest = bytes;
    while let Some((&head, behind)) = rest.split_first() {
        if head == 255 {
            end_region(&mut region, &mut regions);
            rest = behind;
            continue;
        }
        let (value, behind) = behind.split_at(usize::from(head >> 4).min(behind.len()));
        let at = usize::from(head & 15);
        let (group, number, vr) = TAGS[at];
        let into = if at < OF_REGION {
            &mut outer
        } else {
            &mut region
        };
        element((group, number), vr, value, into);
        rest = behind;
    }
    end_region(&mut region, &mut regions);

    let mut meta = Vec::new();
    element((2, 0x10), b"UI", b"1.2.840.10008.1.2.1\0", &mut meta);
    let mut file = vec![0; 128];
    file.extend(b"DICM");
    element((2, 0), b"UL", &(meta.len() as u32).to_le_bytes(), &mut file);
    file.extend(meta);
    element(
        (0x0008, 0x0016),
        b"UI",
        b"1.2.840.10008.5.1.4.1.1.3.1\0",
        &mut file,
    );
    file.extend(outer);
    element((0x0018, 0x6011), b"SQ", &regions, &mut file);
    element((0x0028, 0x0002), b"US", &[1, 0], &mut file);
    element((0x0028, 0x0004), b"CS", b"MONOCHROME2", &mut file);
    for (number, value) in [(0x10, 2), (0x11, 2), (0x100, 8), (0x101, 8)] {
        element((0x0028, number), b"US", &[value, 0], &mut file);
    }
    element((0x7FE0, 0x0010), b"OB", &[0; 4], &mut file);
    let _ = doors::dicom(&file);
});
