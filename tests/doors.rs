//! Damaged bytes at every door: each is taken or refused, and nothing breaks.
//! `fuzz/` looks further; whole files go through the sandbox in
//! `tests/sandbox.rs`.
#![cfg(feature = "gstreamer")]
#![allow(clippy::unwrap_used, reason = "tests may")]

#[path = "support/recordings.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod recordings;
#[path = "support/ingest.rs"]
#[allow(dead_code, reason = "shared with other tests")]
mod support;

use std::fs;
use std::path::Path;

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use dicom_ul::Pdu;
use dicom_ul::pdu::{PDataValue, PDataValueType};
use hepaflow::config::{DEFAULTS, Pipeline};
use hepaflow::ingest::doors;
use hepaflow::model::Model;
use proptest::prelude::*;
use support::{put, ultrasound, write_dicom};

/// One way to damage bytes.
#[derive(Clone, Debug)]
enum Damage {
    Cut(prop::sample::Index),
    Flip(prop::sample::Index, u8),
    /// A length that is absurd.
    Absurd(prop::sample::Index, u32),
    Take(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let any_index = any::<prop::sample::Index>;
    let absurd = prop_oneof![
        Just(u32::MAX),
        Just(u32::MAX - 1),
        Just(0),
        Just(0x7FFF_FFFF),
        any::<u32>()
    ];
    let one = prop_oneof![
        any_index().prop_map(Damage::Cut),
        (any_index(), any::<u8>()).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any_index(), absurd).prop_map(|(at, value)| Damage::Absurd(at, value)),
        (any_index(), 1..40_usize).prop_map(|(at, count)| Damage::Take(at, count)),
        (any_index(), prop::collection::vec(any::<u8>(), 1..40))
            .prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ];
    prop::collection::vec(one, 1..4)
}

fn damaged(seed: &[u8], damage: &[Damage]) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for one in damage {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match one {
            Damage::Cut(at) => bytes.truncate(at.index(length)),
            Damage::Flip(at, bits) => bytes[at.index(length)] ^= bits,
            Damage::Absurd(at, value) => {
                let at = at.index(length);
                let end = length.min(at + 4);
                bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
            }
            Damage::Take(at, count) => {
                let at = at.index(length);
                bytes.drain(at..length.min(at + count));
            }
            Damage::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
        }
    }
    bytes
}

fn element(group: u16, number: u16, value: &[u8]) -> Vec<u8> {
    let length = value.len() as u32;
    [
        &group.to_le_bytes()[..],
        &number.to_le_bytes(),
        &length.to_le_bytes(),
        value,
    ]
    .concat()
}

/// A C-ECHO request and a C-FIND answer.
fn commands() -> [Vec<u8>; 2] {
    let shorts = |rows: &[(u16, u16)]| -> Vec<u8> {
        let rows = rows.iter();
        rows.flat_map(|(number, value)| element(0, *number, &value.to_le_bytes()))
            .collect()
    };
    [
        shorts(&[(0x0100, 0x0030), (0x0110, 1), (0x0800, 0x0101)]),
        shorts(&[(0x0100, 0x8020), (0x0800, 1), (0x0900, 0xFF00)]),
    ]
}

fn pdu() -> Vec<u8> {
    let mut bytes = Vec::new();
    let value = PDataValue {
        presentation_context_id: 1,
        value_type: PDataValueType::Command,
        is_last: true,
        data: commands()[0].clone(),
    };
    dicom_ul::write_pdu(&mut bytes, &Pdu::PData { data: vec![value] }).unwrap();
    bytes
}

/// A cine with regions, two kinds of timing and two frames.
fn cine() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let mut object = ultrasound();
    put(&mut object, tags::NUMBER_OF_FRAMES, VR::IS, "2");
    put(&mut object, tags::ROWS, VR::US, 2_u16);
    put(&mut object, tags::FRAME_TIME_VECTOR, VR::DS, "0\\40");
    put(&mut object, tags::CINE_RATE, VR::IS, "25");
    let path = folder.path().join("a.dcm");
    write_dicom(object, uids::EXPLICIT_VR_LITTLE_ENDIAN, &path);
    fs::read(path).unwrap()
}

fn model() -> [Vec<u8>; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/fibro2d");
    ["model.toml", "weights.safetensors"].map(|name| fs::read(folder.join(name)).unwrap())
}

#[test]
fn what_is_whole_is_taken() {
    assert!(doors::pdu(&pdu()));
    assert!(commands().iter().all(|command| doors::command(command)));
    assert_eq!(doors::dicom(&cine()).unwrap(), 2);
    assert_eq!(doors::frame(&[]).unwrap(), 0);
}

/// Behind it, lengths would be read where there are none.
#[test]
fn a_number_that_is_cut_short_is_refused_before_the_header_is_parsed() {
    let mut bytes = cine();
    let cine_rate = [0x18, 0, 0x40, 0, b'I', b'S'];
    let at = bytes.windows(6).position(|six| six == cine_rate).unwrap();
    let of_six_bytes = [0x18, 0, 0x2C, 0x60, b'F', b'D', 6, 0, 0, 0, 0, 0, 0, 0];
    bytes.splice(at..at, of_six_bytes);
    assert_eq!(doors::dicom(&bytes).unwrap_err().code(), "dicom_malformed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_peer_breaks_the_listener(damage in damage()) {
        doors::pdu(&damaged(&pdu(), &damage));
        for command in commands() {
            doors::command(&damaged(&command, &damage));
        }
    }

    #[test]
    fn no_dicom_breaks_its_reader(damage in damage(), noise in prop::collection::vec(any::<u8>(), 0..400)) {
        match doors::dicom(&damaged(&cine(), &damage)) {
            Ok(frames) => prop_assert!(frames <= 2),
            Err(error) => {
                prop_assert!(!error.code().is_empty());
                prop_assert!(!error.to_string().contains("SECRET-ID"));
            }
        }
        doors::frame(&noise).unwrap();
    }

    #[test]
    fn no_pipeline_file_breaks_the_reader(damage in damage()) {
        let text = damaged(DEFAULTS.as_bytes(), &damage);
        if let Err(error) = Pipeline::parse(Path::new("p.toml"), &String::from_utf8_lossy(&text)) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_model_directory_breaks_the_loader(damage in damage(), which in 0..2_usize) {
        let folder = tempfile::tempdir().unwrap();
        let mut files = model();
        // Of the weights, the header is what is parsed.
        files[which] = damaged(&files[which], &damage);
        for (name, bytes) in ["model.toml", "weights.safetensors"].iter().zip(&files) {
            fs::write(folder.path().join(name), bytes).unwrap();
        }
        if let Err(error) = Model::load(folder.path()) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
