//! The kernels' machine code, loaded.

use cudarc::driver::{result, sys};

use crate::engine::cuda::CudaError;
use crate::engine::cuda::compile::{self, Cache};
use crate::engine::cuda::kernels::sources_for;

/// A handle of the driver's, which any thread may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct LoadedModule {
    pub(super) source: &'static str,
    pub(super) module: sys::CUmodule,
}

// SAFETY: the driver's handles are not tied to a thread; its functions lock.
unsafe impl Send for LoadedModule {}
// SAFETY: as above.
unsafe impl Sync for LoadedModule {}

/// Loads all modules; one that the driver refuses is compiled anew, once.
pub(super) fn load(architecture: &str) -> Result<Vec<LoadedModule>, CudaError> {
    let cache = Cache::usual();
    let load_one = |of: &compile::Module| {
        // SAFETY: an image of machine code, whole as its hash says; the context
        // is current.
        let loaded = unsafe { result::module::load_data(of.cubin.as_ptr().cast()) };
        loaded.map(|module| LoadedModule {
            source: of.source,
            module,
        })
    };
    let modules = compile::modules(&cache, architecture)?;
    let loaded: Result<Vec<_>, _> = modules.iter().map(load_one).collect();
    if let Ok(loaded) = loaded {
        return Ok(loaded);
    }
    for source in sources_for(architecture) {
        cache.forget(source, architecture);
    }
    let load_again = |module: &compile::Module| {
        load_one(module).map_err(|error| CudaError::Compile {
            problem: format!("the driver refuses {}: {error}", module.source),
        })
    };
    compile::modules(&cache, architecture)?
        .iter()
        .map(load_again)
        .collect()
}
