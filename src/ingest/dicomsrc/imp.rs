//! The machinery of `dicomsrc`.

use std::io;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_base as gst_base;
use gstreamer_base::prelude::*;
use gstreamer_base::subclass::base_src::CreateSuccess;
use gstreamer_base::subclass::prelude::*;
use gstreamer_video as gst_video;

use super::super::dicom::{Cine, Coding};

static CAT: LazyLock<gst::DebugCategory> = LazyLock::new(|| {
    gst::DebugCategory::new(
        super::NAME,
        gst::DebugColorFlags::empty(),
        Some("DICOM cine source"),
    )
});

/// What the element is doing.
#[derive(Default)]
enum State {
    #[default]
    Stopped,
    /// Opened by the maker of the element, not started.
    Given(Cine),
    Started {
        cine: Cine,
        caps: gst::Caps,
        /// For uncompressed frames: the layout they leave in.
        raw: Option<gst_video::VideoInfo>,
        next: usize,
    },
}

#[derive(Default)]
pub struct DicomSrc {
    location: Mutex<Option<PathBuf>>,
    state: Mutex<State>,
}

impl DicomSrc {
    pub(super) fn give(&self, path: PathBuf, cine: Cine) {
        *lock(&self.location) = Some(path);
        *lock(&self.state) = State::Given(cine);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[glib::object_subclass]
impl ObjectSubclass for DicomSrc {
    const NAME: &'static str = "HepaflowDicomSrc";
    type Type = super::DicomSrc;
    type ParentType = gst_base::PushSrc;
}

impl ObjectImpl for DicomSrc {
    fn properties() -> &'static [glib::ParamSpec] {
        static PROPERTIES: LazyLock<Vec<glib::ParamSpec>> = LazyLock::new(|| {
            vec![
                glib::ParamSpecString::builder("location")
                    .nick("File location")
                    .blurb("The DICOM file to read: a single or multi-frame image in any syntax but video")
                    .mutable_ready()
                    .build(),
            ]
        });
        PROPERTIES.as_ref()
    }

    fn set_property(&self, _id: usize, value: &glib::Value, _spec: &glib::ParamSpec) {
        // There is one property, and GObject has checked its type.
        let location = value.get::<Option<String>>().ok().flatten();
        *lock(&self.location) = location.map(PathBuf::from);
    }

    fn property(&self, _id: usize, _spec: &glib::ParamSpec) -> glib::Value {
        let location = lock(&self.location);
        location
            .as_ref()
            .map(|path| path.to_string_lossy().into_owned())
            .to_value()
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.obj().set_format(gst::Format::Time);
    }
}

impl GstObjectImpl for DicomSrc {}

impl ElementImpl for DicomSrc {
    fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
        static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
            gst::subclass::ElementMetadata::new(
                "DICOM cine source",
                "Source/File/Video",
                "Reads the frames of a DICOM image with their acquisition times",
                "The hepaflow authors",
            )
        });
        Some(&*METADATA)
    }

    fn pad_templates() -> &'static [gst::PadTemplate] {
        static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
            let mut caps = gst::Caps::new_empty();
            {
                let caps = caps.make_mut();
                caps.append(gst::Caps::new_empty_simple("image/jpeg"));
                caps.append(gst::Caps::new_empty_simple("image/x-jpc"));
                caps.append(
                    gst_video::VideoCapsBuilder::new()
                        .format_list([
                            gst_video::VideoFormat::Gray8,
                            gst_video::VideoFormat::Rgb,
                            gst_video::VideoFormat::Y444,
                            gst_video::VideoFormat::Y42b,
                        ])
                        .build(),
                );
            }
            gst::PadTemplate::new(
                "src",
                gst::PadDirection::Src,
                gst::PadPresence::Always,
                &caps,
            )
            .into_iter()
            .collect()
        });
        TEMPLATES.as_ref()
    }
}

impl BaseSrcImpl for DicomSrc {
    fn start(&self) -> Result<(), gst::ErrorMessage> {
        let mut state = lock(&self.state);
        let cine = match std::mem::take(&mut *state) {
            State::Given(cine) => cine,
            State::Stopped | State::Started { .. } => self.open()?,
        };
        let (caps, raw) = describe(&cine)?;
        gst::debug!(CAT, imp = self, "{:?} frames, {caps}", cine.len());
        *state = State::Started {
            cine,
            caps,
            raw,
            next: 0,
        };
        Ok(())
    }

    fn stop(&self) -> Result<(), gst::ErrorMessage> {
        *lock(&self.state) = State::Stopped;
        Ok(())
    }

    fn is_seekable(&self) -> bool {
        false
    }

    fn caps(&self, filter: Option<&gst::Caps>) -> Option<gst::Caps> {
        let caps = match &*lock(&self.state) {
            State::Started { caps, .. } => caps.clone(),
            State::Stopped | State::Given(_) => self.obj().static_pad("src")?.pad_template_caps(),
        };
        Some(match filter {
            Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
            None => caps,
        })
    }
}

impl PushSrcImpl for DicomSrc {
    fn create(
        &self,
        _buffer: Option<&mut gst::BufferRef>,
    ) -> Result<CreateSuccess, gst::FlowError> {
        let mut state = lock(&self.state);
        let State::Started {
            cine, raw, next, ..
        } = &mut *state
        else {
            return Err(gst::FlowError::Flushing);
        };
        let index = *next;
        let frame = cine.read(index).map_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                gst::element_imp_error!(self, gst::StreamError::Decode, ("frame {index}: {error}"));
            } else {
                gst::element_imp_error!(self, gst::ResourceError::Read, ("frame {index}: {error}"));
            }
            gst::FlowError::Error
        })?;
        let Some(frame) = frame else {
            return Err(gst::FlowError::Eos);
        };
        *next += 1;
        let bytes = match raw {
            None => frame,
            Some(info) => lay_out(&frame, cine.coding, info),
        };
        let mut buffer = gst::Buffer::from_mut_slice(bytes);
        if let Some(buffer) = buffer.get_mut() {
            buffer.set_pts(cine.timing.of(index).and_then(clock_time));
            buffer.set_duration(cine.timing.interval().and_then(clock_time));
            buffer.set_offset(index as u64);
            buffer.set_offset_end(index as u64 + 1);
        }
        Ok(CreateSuccess::NewBuffer(buffer))
    }
}

impl DicomSrc {
    fn open(&self) -> Result<Cine, gst::ErrorMessage> {
        let location = lock(&self.location);
        let path = location.as_ref().ok_or_else(|| {
            gst::error_msg!(gst::ResourceError::NotFound, ("`location` is not set"))
        })?;
        Cine::open(path).map_err(|error| {
            gst::error_msg!(
                gst::ResourceError::OpenRead,
                ("{}: {error}", path.display())
            )
        })
    }
}

/// The caps of `cine`, and the layout of its frames if they are uncompressed.
fn describe(cine: &Cine) -> Result<(gst::Caps, Option<gst_video::VideoInfo>), gst::ErrorMessage> {
    let rate = frame_rate(cine.timing.interval());
    let (width, height) = (u32::from(cine.columns), u32::from(cine.rows));
    let format = match cine.coding {
        Coding::Jpeg { .. } => {
            let caps = gst::Caps::builder("image/jpeg")
                .field("framerate", rate)
                .build();
            return Ok((caps, None));
        }
        Coding::Jpeg2000 { components } => {
            let (colorspace, sampling) = match components {
                1 => ("GRAY", "GRAYSCALE"),
                _ => ("sRGB", "RGB"),
            };
            let caps = gst::Caps::builder("image/x-jpc")
                .field("colorspace", colorspace)
                .field("sampling", sampling)
                .field("num-components", i32::from(components))
                .field("width", i32::from(cine.columns))
                .field("height", i32::from(cine.rows))
                .field("framerate", rate)
                .build();
            return Ok((caps, None));
        }
        Coding::Video => {
            return Err(gst::error_msg!(
                gst::StreamError::WrongType,
                ("it holds video, which this element does not unwrap")
            ));
        }
        Coding::Gray => gst_video::VideoFormat::Gray8,
        Coding::Rgb { .. } => gst_video::VideoFormat::Rgb,
        Coding::YbrFull { .. } => gst_video::VideoFormat::Y444,
        Coding::YbrFull422 => gst_video::VideoFormat::Y42b,
    };
    let mut info = gst_video::VideoInfo::builder(format, width, height).fps(rate);
    // PS3.3 section C.7.6.3.1.2: YBR_FULL is CCIR 601 luma at full range.
    let full_range_601 = gst_video::VideoColorimetry::new(
        gst_video::VideoColorRange::Range0_255,
        gst_video::VideoColorMatrix::Bt601,
        gst_video::VideoTransferFunction::Unknown,
        gst_video::VideoColorPrimaries::Unknown,
    );
    if matches!(cine.coding, Coding::YbrFull { .. } | Coding::YbrFull422) {
        info = info.colorimetry(&full_range_601);
    }
    info.build()
        .and_then(|info| Ok((info.to_caps()?, Some(info))))
        .map_err(|error| gst::error_msg!(gst::StreamError::Format, ("{error}")))
}

/// Frames per second; 0/1 says that it varies or is not known.
fn frame_rate(interval: Option<Duration>) -> gst::Fraction {
    interval
        .and_then(|interval| i32::try_from(interval.as_micros()).ok())
        .filter(|&microseconds| microseconds > 0)
        .map_or(gst::Fraction::new(0, 1), |microseconds| {
            gst::Fraction::new(1_000_000, microseconds)
        })
}

fn clock_time(time: Duration) -> Option<gst::ClockTime> {
    gst::ClockTime::try_from(time).ok()
}

/// Sorts a frame's samples into GStreamer's planes, whose rows are padded.
fn lay_out(frame: &[u8], coding: Coding, info: &gst_video::VideoInfo) -> Vec<u8> {
    let mut out = vec![0; info.size()];
    let (width, height) = (info.width() as usize, info.height() as usize);
    let plane = width * height;
    for y in 0..height {
        let mut row = |number: usize, bytes: &mut dyn Iterator<Item = u8>| {
            let start = info.offset()[number] + y * info.stride()[number] as usize;
            out[start..]
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = from);
        };
        let line = y * width;
        match coding {
            // Never asked for: what is compressed leaves as it is.
            Coding::Jpeg { .. } | Coding::Jpeg2000 { .. } | Coding::Video => {}
            Coding::Gray => row(0, &mut frame[line..line + width].iter().copied()),
            Coding::Rgb { planar: false } => {
                row(0, &mut frame[line * 3..(line + width) * 3].iter().copied());
            }
            Coding::Rgb { planar: true } => {
                let pixels = (line..line + width)
                    .flat_map(|at| [frame[at], frame[plane + at], frame[2 * plane + at]]);
                row(0, &mut { pixels });
            }
            Coding::YbrFull { planar } => {
                for component in 0..3 {
                    let (start, step) = if planar {
                        (component * plane + line, 1)
                    } else {
                        (line * 3 + component, 3)
                    };
                    row(
                        component,
                        &mut frame[start..].iter().step_by(step).take(width).copied(),
                    );
                }
            }
            Coding::YbrFull422 => {
                // Y Y CB CR for every two pixels.
                let pairs = || frame[line * 2..(line + width) * 2].chunks_exact(4);
                row(0, &mut pairs().flat_map(|pair| [pair[0], pair[1]]));
                row(1, &mut pairs().map(|pair| pair[2]));
                row(2, &mut pairs().map(|pair| pair[3]));
            }
        }
    }
    out
}
