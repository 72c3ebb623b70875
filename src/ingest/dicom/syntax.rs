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

impl Syntax {
    /// The syntax of a UID, if it is supported.
    pub(super) fn of(uid: &str) -> Option<Self> {
        let rest = uid.strip_prefix(IMPLICIT_LE)?;
        Some(match rest {
            "" | ".1" => Self::Native,
            ".5" => Self::Rle,
            ".4.50" | ".4.51" => Self::Jpeg,
            ".4.80" | ".4.81" => Self::JpegLs,
            ".4.90" | ".4.91" => Self::Jpeg2000,
            // MPEG-2, H.264, HEVC; with .1 those in many fragments.
            ".4.100" | ".4.100.1" | ".4.101" | ".4.101.1" | ".4.102" | ".4.102.1" | ".4.103"
            | ".4.103.1" | ".4.104" | ".4.104.1" | ".4.105" | ".4.105.1" | ".4.106"
            | ".4.106.1" | ".4.107" | ".4.108" => Self::Video,
            _ => return None,
        })
    }

    /// Whether a data set in this syntax says no value representations.
    pub(super) fn is_implicit(uid: &str) -> bool {
        uid == IMPLICIT_LE
    }
}
