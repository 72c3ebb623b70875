//! Palette Color Lookup Tables, PS3.3 section C.7.6.3.1.5 and C.7.6.3.1.6.

use dicom_core::Tag;
use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;

/// Red, green and blue for every eight-bit index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Palette(Box<[[u8; 3]; 256]>);

impl Palette {
    /// The three tables of an image with PALETTE COLOR; `None` if one of them
    /// is missing or contradicts its descriptor.
    pub(super) fn read(object: &InMemDicomObject) -> Option<Self> {
        let mut palette = Box::new([[0; 3]; 256]);
        for (channel, (descriptor, data)) in [
            (
                tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
                tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            ),
            (
                tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
                tags::GREEN_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            ),
            (
                tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
                tags::BLUE_PALETTE_COLOR_LOOKUP_TABLE_DATA,
            ),
        ]
        .into_iter()
        .enumerate()
        {
            let table = table(object, descriptor, data)?;
            for (entry, value) in palette.iter_mut().zip(table) {
                entry[channel] = value;
            }
        }
        Some(Self(palette))
    }

    /// Indices into pixels of red, green, blue.
    pub(super) fn apply(&self, indices: &[u8]) -> Vec<u8> {
        indices
            .iter()
            .flat_map(|&index| self.0[usize::from(index)])
            .collect()
    }
}

/// One channel for each of the 256 indices.
fn table(object: &InMemDicomObject, descriptor: Tag, data: Tag) -> Option<[u8; 256]> {
    let descriptor: Vec<i64> = object.get(descriptor)?.to_multi_int().ok()?;
    let &[entries, first, bits] = descriptor.as_slice() else {
        return None;
    };
    // Sixteen bits hold 65536 entries as 0.
    let entries = match entries & 0xFFFF {
        0 => 65_536,
        entries => usize::try_from(entries).ok()?,
    };
    let bytes = object.get(data)?.to_bytes().ok()?;
    let words = || bytes.chunks_exact(2);
    let values: Vec<u8> = match bits {
        // The most significant half is what eight bits can show.
        16 if bytes.len() / 2 >= entries => words().map(|word| word[1]).collect(),
        8 if bytes.len() >= entries * 2 => words().map(|word| word[0]).collect(),
        8 if bytes.len() >= entries => bytes.to_vec(),
        _ => return None,
    };
    let last = entries.checked_sub(1)?;
    let mut table = [0; 256];
    for (index, value) in (0_i64..).zip(table.iter_mut()) {
        // What lies outside the table takes its nearest end.
        let at = usize::try_from(index - first).unwrap_or(0).min(last);
        *value = *values.get(at)?;
    }
    Some(table)
}

#[cfg(test)]
mod tests {
    use dicom_core::value::PrimitiveValue;
    use dicom_core::{DataElement, VR};

    use super::*;

    fn object(descriptor: [u16; 3], data: Vec<u16>) -> InMemDicomObject {
        let mut object = InMemDicomObject::new_empty();
        let (about, values) = (
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        );
        object.put(DataElement::new(
            about,
            VR::US,
            PrimitiveValue::U16(descriptor.to_vec().into()),
        ));
        object.put(DataElement::new(
            values,
            VR::OW,
            PrimitiveValue::U16(data.into()),
        ));
        object
    }

    fn red(descriptor: [u16; 3], data: Vec<u16>) -> Option<[u8; 256]> {
        table(
            &object(descriptor, data),
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DESCRIPTOR,
            tags::RED_PALETTE_COLOR_LOOKUP_TABLE_DATA,
        )
    }

    #[test]
    fn entries_of_eight_and_sixteen_bits_are_read_and_the_ends_reach_on() {
        let wide = red([3, 10, 16], vec![0x1122, 0x3344, 0x5566]).unwrap();
        assert_eq!(
            [wide[0], wide[10], wide[11], wide[12], wide[255]],
            [0x11, 0x11, 0x33, 0x55, 0x55]
        );
        let packed = red([4, 0, 8], vec![0x0201, 0x0403]).unwrap();
        assert_eq!(packed[..5], [1, 2, 3, 4, 4]);
        let padded = red([2, 0, 8], vec![0x0007, 0x0009]).unwrap();
        assert_eq!(padded[..3], [7, 9, 9]);
    }

    #[test]
    fn a_table_that_is_too_short_or_of_odd_depth_is_refused() {
        assert_eq!(red([4, 0, 16], vec![1, 2, 3]), None);
        assert_eq!(red([2, 0, 12], vec![1, 2, 3]), None);
        // All 65536 entries are announced, and four are there.
        assert_eq!(red([0, 0, 8], vec![1, 2]), None);
    }
}
