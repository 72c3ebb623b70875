//! `dicomsrc`: a GStreamer source element that reads a DICOM cine.
//!
//! JPEG frames leave it as they are, as `image/jpeg`, JPEG 2000 as
//! `image/x-jpc`; all others as `video/x-raw`, but for video, which is no cine of
//! frames and plays as a file of its own. Times come from the header. The reader uses it for
//! DICOM files, and a launch line may name it:
//! `dicomsrc location=liver.dcm ! jpegdec`. It exists in this process only.

mod imp;

use std::path::PathBuf;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::*;

use super::dicom::Cine;

/// The element's name.
pub(super) const NAME: &str = "dicomsrc";

glib::wrapper! {
    /// The element.
    pub struct DicomSrc(ObjectSubclass<imp::DicomSrc>)
        @extends gstreamer_base::PushSrc, gstreamer_base::BaseSrc, gst::Element, gst::Object;
}

impl DicomSrc {
    /// An element for a cine that is open already, found at `path`.
    pub(super) fn of(path: PathBuf, cine: Cine) -> Self {
        let element: Self = glib::Object::new();
        element.imp().give(path, cine);
        element
    }
}

/// Makes the element known to GStreamer. Once is enough; more do no harm.
///
/// # Errors
/// If GStreamer refuses it.
pub fn register() -> Result<(), glib::BoolError> {
    gst::Element::register(None, NAME, gst::Rank::NONE, DicomSrc::static_type())
}
