//! The transfer syntaxes that are read: PS3.5 annex A, PS3.6 annex A.

/// How the data set is written and its pixels are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Syntax {
    /// As they are.
    Native,
    /// PS3.5 annex G.
    Rle,
    /// Baseline, and extended with eight bits.
    Jpeg,
    /// ISO/IEC 14495-1, lossless and near-lossless.
    JpegLs,
    /// ISO/IEC 15444-1, reversible and not.
    Jpeg2000,
    /// MPEG-2, H.264 or HEVC, bare or in a container.
    Video,
}

const IMPLICIT_LE: &str = "1.2.840.10008.1.2";

/// The UIDs that [`Syntax::of`] knows, those first that cost least to read.
pub(in crate::ingest) const TRANSFER_SYNTAXES: [&str; 25] = [
    "1.2.840.10008.1.2.1",
    IMPLICIT_LE,
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
    "1.2.840.10008.1.2.4.100",
    "1.2.840.10008.1.2.4.100.1",
    "1.2.840.10008.1.2.4.101",
    "1.2.840.10008.1.2.4.101.1",
    "1.2.840.10008.1.2.4.102",
    "1.2.840.10008.1.2.4.102.1",
    "1.2.840.10008.1.2.4.103",
    "1.2.840.10008.1.2.4.103.1",
    "1.2.840.10008.1.2.4.104",
    "1.2.840.10008.1.2.4.104.1",
    "1.2.840.10008.1.2.4.105",
    "1.2.840.10008.1.2.4.105.1",
    "1.2.840.10008.1.2.4.106",
    "1.2.840.10008.1.2.4.106.1",
    "1.2.840.10008.1.2.4.107",
    "1.2.840.10008.1.2.4.108",
];

impl Syntax {
    /// The syntax of a UID, if it is supported.
    pub(super) fn of(uid: &str) -> Option<Self> {
        if !TRANSFER_SYNTAXES.contains(&uid) {
            return None;
        }
        Some(match uid.strip_prefix(IMPLICIT_LE)? {
            "" | ".1" => Self::Native,
            ".5" => Self::Rle,
            ".4.50" | ".4.51" => Self::Jpeg,
            ".4.80" | ".4.81" => Self::JpegLs,
            ".4.90" | ".4.91" => Self::Jpeg2000,
            // MPEG-2, H.264, HEVC; with .1 those in many fragments.
            _ => Self::Video,
        })
    }

    /// Whether a data set in this syntax says no value representations.
    pub(super) fn is_implicit(uid: &str) -> bool {
        uid == IMPLICIT_LE
    }
}
