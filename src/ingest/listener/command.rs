//! DIMSE command sets, PS3.7 sections 6.3 and 9.3: implicit little endian, a
//! handful of elements, none of them nested. Read and written here rather than
//! by a data set parser, so that what a peer sends before it has sent anything
//! of use is looked at by as little code as can be.

/// The largest command set that is read; real ones have some 200 bytes.
pub(super) const LARGEST: usize = 4096;

const COMMAND_FIELD: u16 = 0x0100;
const AFFECTED_SOP_CLASS: u16 = 0x0002;
const MESSAGE_ID: u16 = 0x0110;
const MESSAGE_ID_RESPONDED_TO: u16 = 0x0120;
const DATA_SET_TYPE: u16 = 0x0800;
const STATUS: u16 = 0x0900;
const AFFECTED_SOP_INSTANCE: u16 = 0x1000;

const NO_DATA_SET: u16 = 0x0101;
const C_STORE: u16 = 0x0001;
const C_ECHO: u16 = 0x0030;
const RESPONSE: u16 = 0x8000;

/// What a peer asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::ingest) enum Request {
    /// Are you there?
    Echo { message: u16 },
    /// Keep the data set that follows.
    Store {
        message: u16,
        class: String,
        instance: String,
    },
}

/// What a peer is answered, PS3.7 annex C and PS3.4 section B.2.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Status {
    Success = 0x0000,
    OutOfResources = 0xA700,
    DataSetDoesNotMatch = 0xA900,
    CannotUnderstand = 0xC000,
}

impl Request {
    /// Reads a command set; `None` if it is none, or another command.
    pub(in crate::ingest) fn read(bytes: &[u8]) -> Option<Self> {
        let mut class = None;
        let mut instance = None;
        let (mut command, mut message, mut data) = (None, None, None);
        for element in elements(bytes) {
            let (group, number, value) = element?;
            // PS3.7 section 6.3.1: all of them in group 0.
            if group != 0 {
                return None;
            }
            let short = || Some(u16::from_le_bytes(value.try_into().ok()?));
            match number {
                COMMAND_FIELD => command = short(),
                MESSAGE_ID => message = short(),
                DATA_SET_TYPE => data = short(),
                AFFECTED_SOP_CLASS => class = uid(value),
                AFFECTED_SOP_INSTANCE => instance = uid(value),
                _ => {}
            }
        }
        let message = message?;
        match (command?, data? != NO_DATA_SET) {
            (C_ECHO, false) => Some(Self::Echo { message }),
            (C_STORE, true) => Some(Self::Store {
                message,
                class: class?,
                instance: instance?,
            }),
            _ => None,
        }
    }

    /// The command set of the answer.
    pub(super) fn answer(&self, status: Status) -> Vec<u8> {
        let (command, message) = match self {
            Self::Echo { message } => (C_ECHO, message),
            Self::Store { message, .. } => (C_STORE, message),
        };
        let mut body = Vec::new();
        let mut put = |number: u16, value: &[u8]| put(&mut body, (0, number), value);
        let class = match self {
            Self::Echo { .. } => VERIFICATION,
            Self::Store { class, .. } => class,
        };
        put(AFFECTED_SOP_CLASS, &padded(class));
        put(COMMAND_FIELD, &(command | RESPONSE).to_le_bytes());
        put(MESSAGE_ID_RESPONDED_TO, &message.to_le_bytes());
        put(DATA_SET_TYPE, &NO_DATA_SET.to_le_bytes());
        put(STATUS, &(status as u16).to_le_bytes());
        if let Self::Store { instance, .. } = self {
            put(AFFECTED_SOP_INSTANCE, &padded(instance));
        }
        with_length(&body)
    }
}

/// The elements of a data set in implicit little endian that has no sequences:
/// group, number and value, one after the other; `None` where it breaks off.
pub(in crate::ingest) fn elements(bytes: &[u8]) -> impl Iterator<Item = Option<(u16, u16, &[u8])>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let element = first_element(rest);
        rest = element.map_or(&[], |(_, behind)| behind);
        Some(element.map(|(element, _)| element))
    })
}

type Element<'a> = (u16, u16, &'a [u8]);

fn first_element(bytes: &[u8]) -> Option<(Element<'_>, &[u8])> {
    let (head, behind) = bytes.split_at_checked(8)?;
    let number = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let (value, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
    Some(((number(0), number(2), value), behind))
}

/// Appends an element, whose value must be of even length.
pub(in crate::ingest) fn put(to: &mut Vec<u8>, (group, number): (u16, u16), value: &[u8]) {
    to.extend(group.to_le_bytes());
    to.extend(number.to_le_bytes());
    to.extend((value.len() as u32).to_le_bytes());
    to.extend(value);
}

/// A command set of these elements: its length comes first.
pub(in crate::ingest) fn with_length(body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(12 + body.len());
    put(&mut whole, (0, 0), &(body.len() as u32).to_le_bytes());
    whole.extend(body);
    whole
}

/// Verification SOP Class.
pub(super) const VERIFICATION: &str = "1.2.840.10008.1.1";

/// PS3.5 section 9.1: digits and dots, at most 64 characters.
pub(in crate::ingest) fn uid(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value)
        .ok()?
        .trim_end_matches(['\0', ' ']);
    let is_uid = (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.');
    is_uid.then(|| text.to_owned())
}

/// PS3.5 section 9.1: UIDs of odd length are padded with a zero byte.
pub(in crate::ingest) fn padded(uid: &str) -> Vec<u8> {
    let mut bytes = uid.as_bytes().to_vec();
    if bytes.len() % 2 == 1 {
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn element(number: u16, value: &[u8]) -> Vec<u8> {
        let length = value.len() as u32;
        [
            &[0, 0][..],
            &number.to_le_bytes(),
            &length.to_le_bytes(),
            value,
        ]
        .concat()
    }

    #[test]
    fn a_store_request_is_read_and_answered_by_its_number() {
        let bytes = [
            element(0x0000, &[0; 4]),
            element(AFFECTED_SOP_CLASS, b"1.2.3\0"),
            element(COMMAND_FIELD, &[1, 0]),
            element(MESSAGE_ID, &[7, 0]),
            element(0x0700, &[0, 0]),
            element(DATA_SET_TYPE, &[0, 0]),
            element(AFFECTED_SOP_INSTANCE, b"2.25.99\0"),
        ]
        .concat();
        let request = Request::read(&bytes).unwrap();
        let expected = Request::Store {
            message: 7,
            class: "1.2.3".to_owned(),
            instance: "2.25.99".to_owned(),
        };
        assert_eq!(request, expected);
        let answer = request.answer(Status::OutOfResources);
        let said = answer.len() - 12;
        assert_eq!(answer[8..12], (said as u32).to_le_bytes());
        for part in [
            element(COMMAND_FIELD, &[1, 0x80]),
            element(MESSAGE_ID_RESPONDED_TO, &[7, 0]),
            element(STATUS, &[0x00, 0xA7]),
            element(AFFECTED_SOP_INSTANCE, b"2.25.99\0"),
        ] {
            assert!(answer.windows(part.len()).any(|window| window == part));
        }
        assert_eq!(Request::read(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_uid_that_is_none_is_refused() {
        for bad in [
            &b""[..],
            b"../../etc/passwd",
            b"1.2\n",
            &[b'1'; 65],
            &[0xFF],
        ] {
            assert_eq!(uid(bad), None);
        }
        assert_eq!(uid(b"1.2.840.10008.1.1\0").as_deref(), Some(VERIFICATION));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::read(&bytes);
        }
    }
}
