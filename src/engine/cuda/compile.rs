//! Kernels into machine code for the card at hand: by NVRTC, kept on disk.
//!
//! The sources are in the binary. NVRTC, NVIDIA's compiler as a library, comes
//! with the CUDA toolkit and with Python's `nvidia-cuda-nvrtc` wheels, and needs
//! no driver. What it makes is kept under the hash of the sources, the
//! architecture and the options, so that a machine compiles once; and a machine
//! that was handed a filled cache needs no NVRTC at all.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fs;
use std::path::{Path, PathBuf};

use libloading::Library;
use sha2::{Digest, Sha256};

use super::CudaError;
use super::kernels::{HEADERS, SOURCES, Source, sources_for};

/// A module's machine code, and what the assembler said about its kernels.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) source: &'static str,
    pub(crate) cubin: Vec<u8>,
}

/// Options of every compilation.
const OPTIONS: [&str; 4] = [
    "-std=c++17",
    "--ptxas-options=-v",
    "-default-device",
    // The kernels are templates used in part.
    "-diag-suppress=177",
];

/// Where `libnvrtc` may lie, beside where the linker looks.
const FOLDERS: [&str; 3] = [
    "/usr/local/cuda/lib64",
    "/usr/lib/x86_64-linux-gnu",
    "/opt/cuda/lib64",
];
const NAMES: [&str; 4] = [
    "libnvrtc.so",
    "libnvrtc.so.13",
    "libnvrtc.so.12",
    "libnvrtc.so.11.2",
];

/// The architecture that a card's kernels are compiled for, such as `sm_86`;
/// Hopper's has features of its own.
pub(crate) fn architecture((major, minor): (i32, i32)) -> String {
    match (major, minor) {
        (9, 0) => "sm_90a".to_owned(),
        _ => format!("sm_{major}{minor}"),
    }
}

/// NVRTC, loaded.
#[derive(Debug)]
pub(crate) struct Nvrtc {
    library: Library,
}

/// Of an `nvrtcProgram`.
type Program = *mut std::ffi::c_void;

impl Nvrtc {
    /// Loads the library: from `HEPAFLOW_NVRTC`, from where the linker looks, or
    /// from where toolkits put it.
    pub(crate) fn load() -> Result<Self, CudaError> {
        let mut choices: Vec<PathBuf> = Vec::new();
        if let Some(path) = std::env::var_os("HEPAFLOW_NVRTC") {
            choices.push(path.into());
        } else {
            choices.extend(NAMES.map(PathBuf::from));
            for folder in FOLDERS {
                choices.extend(NAMES.map(|name| Path::new(folder).join(name)));
            }
        }
        choices
            .iter()
            .find_map(|choice| Self::open(choice))
            .ok_or_else(|| CudaError::Compile {
                problem: "NVRTC was not found: install the CUDA toolkit, or name libnvrtc.so in \
                          HEPAFLOW_NVRTC"
                    .to_owned(),
            })
    }

    /// Loads a library, if it is one.
    fn open(path: &Path) -> Option<Self> {
        // SAFETY: NVRTC's initialisers only set up its own state.
        let library = unsafe { Library::new(path) }.ok()?;
        // It opens a second library by its bare name, which the linker finds
        // beside the first one only if that is there already.
        let beside = path.parent().filter(|folder| folder.is_absolute());
        let entries = beside.and_then(|folder| fs::read_dir(folder).ok());
        for entry in entries.into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("libnvrtc-builtins.so.") {
                // SAFETY: as above; it holds data for NVRTC, and stays.
                if let Ok(builtins) = unsafe { Library::new(entry.path()) } {
                    std::mem::forget(builtins);
                }
            }
        }
        Some(Self { library })
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the type that `nvrtc.h` declares it with.
    unsafe fn function<F>(&self, name: &CStr) -> Result<libloading::Symbol<'_, F>, CudaError> {
        // SAFETY: the caller's promise.
        unsafe { self.library.get(name.to_bytes_with_nul()) }.map_err(|error| CudaError::Compile {
            problem: format!("libnvrtc.so lacks {}: {error}", name.to_string_lossy()),
        })
    }

    fn check(what: &str, status: c_int) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        Err(CudaError::Compile {
            problem: format!("{what} failed with NVRTC's error {status}"),
        })
    }

    /// Compiles one source; gives the machine code and the log.
    pub(crate) fn compile(
        &self,
        source: Source,
        architecture: &str,
    ) -> Result<(Vec<u8>, String), CudaError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
        type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
        type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

        let strings = |texts: Vec<String>| -> Result<Vec<CString>, CudaError> {
            let texts = texts
                .into_iter()
                .map(CString::new)
                .collect::<Result<_, _>>();
            texts.map_err(|error| CudaError::Compile {
                problem: error.to_string(),
            })
        };
        let names = strings(
            HEADERS
                .iter()
                .map(|header| header.name.to_owned())
                .collect(),
        )?;
        let texts = strings(
            HEADERS
                .iter()
                .map(|header| header.text.to_owned())
                .collect(),
        )?;
        let own = strings(vec![source.text.to_owned(), source.name.to_owned()])?;
        let mut options: Vec<String> = OPTIONS.map(str::to_owned).into();
        options.push(format!("--gpu-architecture={architecture}"));
        let options = strings(options)?;
        let pointers = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).collect()
        };
        let (names, texts, options) = (pointers(&names), pointers(&texts), pointers(&options));
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: the types are those of `nvrtc.h`; all strings live until the
        // end of this function; buffers have the sizes that NVRTC asked for; the
        // program is destroyed once, at the end.
        unsafe {
            let create = self.function::<Create>(c"nvrtcCreateProgram")?;
            let status = create(
                &raw mut program,
                own[0].as_ptr(),
                own[1].as_ptr(),
                texts.len() as c_int,
                texts.as_ptr(),
                names.as_ptr(),
            );
            Self::check("nvrtcCreateProgram", status)?;
            let compile = self.function::<Compile>(c"nvrtcCompileProgram")?;
            let compiled = compile(program, options.len() as c_int, options.as_ptr());
            let read = |size: &CStr, get: &CStr| -> Result<Vec<u8>, CudaError> {
                let mut bytes = 0_usize;
                let status = self.function::<Size>(size)?(program, &raw mut bytes);
                Self::check(&size.to_string_lossy(), status)?;
                let mut buffer = vec![0_u8; bytes];
                let status = self.function::<Get>(get)?(program, buffer.as_mut_ptr().cast());
                Self::check(&get.to_string_lossy(), status)?;
                Ok(buffer)
            };
            let log = read(c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog").map(|log| {
                String::from_utf8_lossy(&log)
                    .trim_end_matches('\0')
                    .to_owned()
            });
            let cubin = if compiled == 0 {
                read(c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")
            } else {
                Err(CudaError::Compile {
                    problem: format!("{}: {}", source.name, log.as_deref().unwrap_or("")),
                })
            };
            let destroy = self.function::<Destroy>(c"nvrtcDestroyProgram")?;
            let _ = destroy(&raw mut program);
            Ok((cubin?, log?))
        }
    }
}

/// The hash of everything that a kernel is made of: which sources were validated
/// on a card, and which a cached module was made from.
pub(crate) fn sources_hash() -> String {
    let mut hash = Sha256::new();
    for source in HEADERS.iter().chain(&SOURCES) {
        hash.update(source.name);
        hash.update([0]);
        hash.update(source.text);
        hash.update([0]);
    }
    hex(&hash.finalize())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn key(source: Source, architecture: &str) -> String {
    let mut hash = Sha256::new();
    let headers = HEADERS.iter().map(|header| header.text);
    for part in headers.chain(OPTIONS).chain([source.text, architecture]) {
        hash.update(part);
        hash.update([0]);
    }
    hex(&hash.finalize()[..16])
}

/// Modules on disk.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In a folder.
    pub(crate) fn at(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
        }
    }

    /// Where the user's caches lie, or where `HEPAFLOW_KERNEL_CACHE` says.
    pub(crate) fn usual() -> Self {
        let named = std::env::var_os("HEPAFLOW_KERNEL_CACHE").map(PathBuf::from);
        let base = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
        let usual = || {
            base.unwrap_or_else(std::env::temp_dir)
                .join("hepaflow/kernels")
        };
        Self::at(named.unwrap_or_else(usual))
    }

    fn file(&self, source: Source, architecture: &str) -> PathBuf {
        let stem = source.name.trim_end_matches(".cu");
        let key = key(source, architecture);
        self.folder
            .join(format!("{stem}-{architecture}-{key}.cubin"))
    }

    /// What was kept, if it is whole: the file ends with the hash of the rest.
    pub(crate) fn get(&self, source: Source, architecture: &str) -> Option<Vec<u8>> {
        let file = self.file(source, architecture);
        let mut bytes = fs::read(&file).ok()?;
        let whole = bytes.len().checked_sub(32).is_some_and(|end| {
            let (cubin, hash) = bytes.split_at(end);
            !cubin.is_empty() && Sha256::digest(cubin).as_slice() == hash
        });
        if !whole {
            tracing::warn!(file = %file.display(), "a cached kernel is damaged: it is made anew");
            return None;
        }
        bytes.truncate(bytes.len() - 32);
        Some(bytes)
    }

    /// Keeps a module; a cache that cannot be written costs time, nothing else.
    pub(crate) fn put(&self, source: Source, architecture: &str, cubin: &[u8]) {
        let file = self.file(source, architecture);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.folder)?;
            // Under another name first: nobody sees half of it.
            let partial = file.with_extension(format!("{}.part", std::process::id()));
            let hash = Sha256::digest(cubin);
            fs::write(&partial, [cubin, hash.as_slice()].concat())?;
            fs::rename(&partial, &file)
        };
        if let Err(error) = write() {
            tracing::warn!(file = %file.display(), %error, "a compiled kernel could not be kept");
        }
    }

    /// Leaves a module out from now on.
    pub(crate) fn forget(&self, source: Source, architecture: &str) {
        let _ = fs::remove_file(self.file(source, architecture));
    }
}

/// All modules for an architecture, from the cache or compiled.
pub(crate) fn modules(cache: &Cache, architecture: &str) -> Result<Vec<Module>, CudaError> {
    let mut nvrtc = None;
    let mut module = |source: Source| {
        if let Some(cubin) = cache.get(source, architecture) {
            return Ok(Module {
                source: source.name,
                cubin,
            });
        }
        let compiler = match &nvrtc {
            Some(compiler) => compiler,
            None => nvrtc.insert(Nvrtc::load()?),
        };
        let (cubin, _) = compiler.compile(source, architecture)?;
        cache.put(source, architecture, &cubin);
        Ok(Module {
            source: source.name,
            cubin,
        })
    };
    sources_for(architecture).map(&mut module).collect()
}

#[cfg(test)]
mod tests;
