//! A real card, through the driver's library, which is loaded when asked for.
//!
//! Every thread has a stream and pinned memory of its own, so that one thread's
//! copies run beside another one's kernels.

mod maps;
mod modules;
mod trial;

use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::sys::CUfunction_attribute_enum::{
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED,
    CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT as CARVEOUT,
};
use cudarc::driver::{CudaContext, sys};

use super::CudaError;
use super::compile;
use super::kernels::source_of;
use super::launch::{Card, Launch, Limits, Recording, TensorMap, Tiles, Together};
use modules::LoadedModule;

/// The first CUDA whose drivers record kernels that overlap.
const FIRST_THAT_OVERLAPS: i32 = 12030;

/// Copied to pinned memory while what was before it is on its way to the card.
const UPLOAD_BYTES: usize = 1 << 20;

/// Shared memory that a block may have without asking.
const ORDINARY_SHARED_BYTES: usize = 48 * 1024;

/// A card of the driver's, with the kernels loaded.
#[derive(Debug)]
pub(crate) struct DriverCard {
    context: Arc<CudaContext>,
    name: String,
    limits: Limits,
    modules: Vec<LoadedModule>,
    /// Whether the modules hold the kernels that are Hopper's alone.
    pub(crate) is_hopper: bool,
    /// Whether a kernel's blocks may come before the kernel before has ended.
    overlaps: bool,
    functions: Mutex<HashMap<String, Function>>,
    lanes: Mutex<HashMap<ThreadId, Arc<Mutex<Lane>>>>,
    recordings: Mutex<Vec<Option<Graph>>>,
}

/// A handle of the driver's, which any thread may use.
#[derive(Clone, Copy, Debug)]
struct Function(sys::CUfunction);
#[derive(Clone, Copy, Debug)]
struct Graph(sys::CUgraphExec);

// SAFETY: the driver's handles are not tied to a thread; its functions lock.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Send for Graph {}

/// A thread's stream, and memory that the card copies from and to by itself.
#[derive(Debug)]
struct Lane {
    stream: sys::CUstream,
    pinned: *mut c_void,
    bytes: usize,
    /// Whether a copy from it may still be under way.
    is_busy: bool,
}

// SAFETY: as for the other handles; the pinned memory is behind a lock.
unsafe impl Send for Lane {}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(error: DriverError) -> CudaError {
    CudaError::Launch {
        problem: error.to_string(),
    }
}

impl DriverCard {
    /// Opens a card in a context of its own, so that dropping it clears whatever
    /// error it is in.
    fn open(ordinal: usize) -> Result<Self, CudaError> {
        let unavailable = |reason: String| CudaError::Unavailable { reason };
        // SAFETY: only tries to load the driver's library; nothing unloads it.
        if !unsafe { sys::is_culib_present() } {
            return Err(unavailable(
                "there is no NVIDIA driver (libcuda.so.1 was not found)".to_owned(),
            ));
        }
        let refused =
            |error: DriverError| unavailable(format!("the NVIDIA driver does not work: {error}"));
        let count = CudaContext::device_count().map_err(refused)?;
        if ordinal >= usize::try_from(count).unwrap_or(0) {
            return Err(unavailable(format!("the NVIDIA driver sees {count} cards")));
        }
        let context = CudaContext::new_non_primary(ordinal, 0).map_err(refused)?;
        let capability = context.compute_capability().map_err(refused)?;
        let name = context.name().map_err(refused)?;
        if capability < (8, 0) {
            let (major, minor) = capability;
            return Err(unavailable(format!(
                "{name} has compute capability {major}.{minor}; the kernels need 8.0 or more"
            )));
        }
        let attribute = |attribute| {
            let value = context.attribute(attribute).map_err(refused)?;
            Ok::<_, CudaError>(usize::try_from(value).unwrap_or(0))
        };
        let limits = Limits {
            multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: attribute(
                Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            )?,
            warpgroups: false,
            tma: false,
            boxes: false,
            clusters: false,
            pairs: false,
        };
        let mut card = Self {
            context,
            name,
            limits,
            modules: Vec::new(),
            is_hopper: false,
            // Kernels wait by themselves from this capability on, see `KERNEL`.
            overlaps: capability >= (9, 0) && Self::driver_version() >= FIRST_THAT_OVERLAPS,
            functions: Mutex::default(),
            lanes: Mutex::default(),
            recordings: Mutex::default(),
        };
        card.bind()?;
        card.modules = modules::load(&compile::architecture(capability))?;
        card.is_hopper = capability == (9, 0);
        Ok(card)
    }

    /// Opens a card to use no more of it than this, which was found to conform.
    pub(crate) fn open_within(ordinal: usize, limits: Limits) -> Result<Self, CudaError> {
        let mut card = Self::open(ordinal)?;
        card.limits = limits;
        Ok(card)
    }

    /// The newest CUDA that the driver knows, such as 13000; where a card is open.
    pub(crate) fn driver_version() -> i32 {
        let mut version = 0;
        // SAFETY: writes one number; the library is loaded.
        let status = unsafe { sys::cuDriverGetVersion(&raw mut version) };
        if status == sys::CUresult::CUDA_SUCCESS {
            version
        } else {
            0
        }
    }

    fn bind(&self) -> Result<(), CudaError> {
        self.context.bind_to_thread().map_err(failed)
    }

    fn lane(&self) -> Result<Arc<Mutex<Lane>>, CudaError> {
        self.bind()?;
        let mut lanes = lock(&self.lanes);
        let thread = std::thread::current().id();
        if let Some(lane) = lanes.get(&thread) {
            return Ok(Arc::clone(lane));
        }
        let stream =
            result::stream::create(result::stream::StreamKind::NonBlocking).map_err(failed)?;
        let lane = Arc::new(Mutex::new(Lane {
            stream,
            pinned: std::ptr::null_mut(),
            bytes: 0,
            is_busy: false,
        }));
        lanes.insert(thread, Arc::clone(&lane));
        Ok(lane)
    }

    /// What a launch asks for besides its grid.
    fn attributes(&self, together: Together) -> Vec<sys::CUlaunchAttribute> {
        use sys::CUlaunchAttributeID::{
            CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION as CLUSTER,
            CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION as OVERLAP,
        };
        let attribute = |id, value| sys::CUlaunchAttribute {
            id,
            pad: [0; 4],
            value,
        };
        let mut attributes = Vec::new();
        if self.overlaps && together != Together::All {
            // Blocks may come before the kernel before has ended.
            let value = sys::CUlaunchAttributeValue {
                programmaticStreamSerializationAllowed: 1,
            };
            attributes.push(attribute(OVERLAP, value));
        }
        if let Together::Clusters(blocks) = together {
            let value = sys::CUlaunchAttributeValue {
                clusterDim: sys::CUlaunchAttributeValue_union__bindgen_ty_1 {
                    x: blocks as u32,
                    y: 1,
                    z: 1,
                },
            };
            attributes.push(attribute(CLUSTER, value));
        }
        attributes
    }

    /// A kernel, by name, allowed to use so much shared memory.
    fn function(&self, name: &str) -> Result<Function, CudaError> {
        let mut functions = lock(&self.functions);
        if let Some(function) = functions.get(name) {
            return Ok(*function);
        }
        let symbol = CString::new(name).map_err(|error| CudaError::Launch {
            problem: error.to_string(),
        })?;
        let source = source_of(name);
        let mut modules = self.modules.iter();
        let module = modules.find(|module| source == Some(module.source));
        let found = module.and_then(|module| {
            // SAFETY: the module is loaded, and stays so while the card lives.
            unsafe { result::module::get_function(module.module, symbol) }.ok()
        });
        let Some(function) = found else {
            return Err(CudaError::Launch {
                problem: format!("there is no kernel {name}"),
            });
        };
        let set = |attribute, value| {
            // SAFETY: the function belongs to a loaded module.
            unsafe { result::function::set_function_attribute(function, attribute, value) }
                .map_err(failed)
        };
        if self.limits.shared_bytes > ORDINARY_SHARED_BYTES {
            set(SHARED, self.limits.shared_bytes as i32)?;
        }
        // All of them the same, as much as there is: a multiprocessor must be empty before
        // it shares its memory out anew.
        set(CARVEOUT, 100)?;
        functions.insert(name.to_owned(), Function(function));
        Ok(Function(function))
    }
}

impl Lane {
    fn wait(&mut self) -> Result<(), CudaError> {
        // SAFETY: the stream is ours and lives.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed)?;
        self.is_busy = false;
        Ok(())
    }

    /// Pinned memory of so many bytes that nothing is using.
    fn pinned(&mut self, bytes: usize) -> Result<&mut [u8], CudaError> {
        if self.is_busy {
            self.wait()?;
        }
        if self.bytes < bytes {
            // SAFETY: allocated below, used by no copy any more.
            unsafe {
                if !self.pinned.is_null() {
                    result::free_host(self.pinned).map_err(failed)?;
                    self.pinned = std::ptr::null_mut();
                    self.bytes = 0;
                }
                let grown = bytes.next_power_of_two();
                self.pinned = result::malloc_host(grown, 0)
                    .map_err(|_| CudaError::OutOfMemory { bytes: grown })?;
                self.bytes = grown;
            }
        }
        // SAFETY: as long as was allocated; any bytes are valid, and all are
        // written before they are read.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pinned.cast(), bytes) })
    }
}

impl Card for DriverCard {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.bind()?;
        // SAFETY: whoever asks writes before reading.
        unsafe { result::malloc_sync(bytes) }.map_err(|DriverError(code)| {
            if code == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                CudaError::OutOfMemory { bytes }
            } else {
                failed(DriverError(code))
            }
        })
    }

    fn free(&self, address: u64) {
        // In a failed context everything fails; the memory goes with it.
        if self.bind().is_ok() {
            // SAFETY: from `allocate`, and given back once; this waits for
            // whatever still uses it.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    fn upload(&self, to: u64, from: &[u8]) -> Result<(), CudaError> {
        let lane = self.lane()?;
        let mut lane = lock(&lane);
        let stream = lane.stream;
        let pinned = lane.pinned(from.len())?.as_mut_ptr();
        lane.is_busy = true;
        for (number, chunk) in from.chunks(UPLOAD_BYTES).enumerate() {
            let offset = number * UPLOAD_BYTES;
            // SAFETY: the pinned memory is as long as `from`, and no part of it is
            // touched again before the stream is waited for, since it is marked busy;
            // the target was allocated this long.
            unsafe {
                let part = std::slice::from_raw_parts_mut(pinned.add(offset), chunk.len());
                part.copy_from_slice(chunk);
                result::memcpy_htod_async(to + offset as u64, part, stream).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn download(&self, to: &mut [u8], from: u64) -> Result<(), CudaError> {
        let lane = self.lane()?;
        let mut lane = lock(&lane);
        let stream = lane.stream;
        let pinned = lane.pinned(to.len())?;
        let pinned: *mut [u8] = pinned;
        // SAFETY: nobody else has the lane, and the copy has ended when the
        // stream was waited for.
        unsafe {
            result::memcpy_dtoh_async(&mut *pinned, from, stream).map_err(failed)?;
            lane.wait()?;
            to.copy_from_slice(&*pinned);
        }
        Ok(())
    }

    fn wait_for(&self, thread: ThreadId) -> Result<(), CudaError> {
        self.bind()?;
        // A thread without a stream has begun nothing.
        let lane = lock(&self.lanes).get(&thread).cloned();
        lane.map_or(Ok(()), |lane| lock(&lane).wait())
    }

    fn map(&self, tiles: &Tiles) -> Result<TensorMap, CudaError> {
        self.bind()?;
        maps::encode(tiles).map_err(failed)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<(), CudaError> {
        let lane = self.lane()?;
        let function = self.function(launch.kernel)?;
        let stream = lock(&lane).stream;
        let grid = launch.grid.map(|blocks| blocks as u32);
        let grid = (grid[0], grid[1], grid[2]);
        let block = (launch.block as u32, 1, 1);
        let shared = launch.shared_bytes as u32;
        let mut parameters = [launch.parameters.pointer.cast_mut()];
        let attributes = self.attributes(launch.together);
        // SAFETY: the kernel takes one struct of this size by value, as the host
        // shim has checked for every kernel; it is copied before this returns.
        // Addresses inside are allocations that outlive the launch: freeing
        // waits. A kernel that is launched to overlap waits by itself for what was
        // begun before. The attributes are only read.
        let launched = unsafe {
            if launch.together == Together::All {
                result::launch_cooperative_kernel(
                    function.0,
                    grid,
                    block,
                    shared,
                    stream,
                    &mut parameters,
                )
            } else if attributes.is_empty() {
                result::launch_kernel(function.0, grid, block, shared, stream, &mut parameters)
            } else {
                let configuration = sys::CUlaunchConfig {
                    gridDimX: grid.0,
                    gridDimY: grid.1,
                    gridDimZ: grid.2,
                    blockDimX: block.0,
                    blockDimY: block.1,
                    blockDimZ: block.2,
                    sharedMemBytes: shared,
                    hStream: stream,
                    attrs: attributes.as_ptr().cast_mut(),
                    numAttrs: attributes.len() as u32,
                };
                let parameters = parameters.as_mut_ptr();
                let none = std::ptr::null_mut();
                sys::cuLaunchKernelEx(&raw const configuration, function.0, parameters, none)
                    .result()
            }
        };
        launched.map_err(|error| CudaError::Launch {
            problem: format!("{}: {error}", launch.kernel),
        })
    }

    fn record(
        &self,
        work: &mut dyn FnMut() -> Result<(), CudaError>,
    ) -> Result<Option<Recording>, CudaError> {
        let lane = self.lane()?;
        let stream = lock(&lane).stream;
        // SAFETY: the stream is this thread's own; what is captured on it is
        // launched by `work` alone.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            result::stream::begin_capture(stream, mode).map_err(failed)?;
            let worked = work();
            let graph = result::stream::end_capture(stream);
            let graph = graph.ok().filter(|graph| !graph.is_null());
            let (Ok(()), Some(graph)) = (worked, graph) else {
                if let Some(graph) = graph {
                    let _ = result::graph::destroy(graph);
                }
                tracing::warn!("the driver does not record these launches: each is made by itself");
                return Ok(None);
            };
            let flags = std::mem::zeroed();
            let executable = result::graph::instantiate(graph, flags);
            let _ = result::graph::destroy(graph);
            let executable = match executable {
                Ok(executable) => executable,
                Err(error) => {
                    tracing::warn!(%error, "launches were recorded in vain: each is made by itself");
                    return Ok(None);
                }
            };
            let mut recordings = lock(&self.recordings);
            recordings.push(Some(Graph(executable)));
            Ok(Some(Recording(recordings.len() - 1)))
        }
    }

    fn replay(&self, Recording(number): Recording) -> Result<(), CudaError> {
        let lane = self.lane()?;
        let graph = lock(&self.recordings).get(number).copied().flatten();
        let Some(Graph(graph)) = graph else {
            return Err(CudaError::Launch {
                problem: "a recording was forgotten".to_owned(),
            });
        };
        let stream = lock(&lane).stream;
        // SAFETY: instantiated by `record`, and not yet forgotten.
        unsafe { result::graph::launch(graph, stream) }.map_err(failed)
    }

    fn forget(&self, Recording(number): Recording) {
        let graph = lock(&self.recordings)
            .get_mut(number)
            .and_then(Option::take);
        if let (Some(Graph(graph)), Ok(())) = (graph, self.bind()) {
            // SAFETY: taken out above, so destroyed once.
            let _ = unsafe { result::graph::exec_destroy(graph) };
        }
    }
}

impl Drop for DriverCard {
    fn drop(&mut self) {
        if self.bind().is_err() {
            return;
        }
        for lane in lock(&self.lanes).values() {
            let mut lane = lock(lane);
            let _ = lane.wait();
            // SAFETY: created by this card, used by nobody any more.
            unsafe {
                if !lane.pinned.is_null() {
                    let _ = result::free_host(lane.pinned);
                }
                let _ = result::stream::destroy(lane.stream);
            }
        }
        for module in &self.modules {
            // SAFETY: loaded by this card; no kernel of it runs any more.
            let _ = unsafe { result::module::unload(module.module) };
        }
    }
}
