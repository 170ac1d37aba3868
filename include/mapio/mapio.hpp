#ifndef MAPIO_MAPIO_HPP
#define MAPIO_MAPIO_HPP

/// @file
/// Includes every public header of mapio.

#include <mapio/atomic.hpp>
#include <mapio/atomic_cell.hpp>
#include <mapio/backend.hpp>
#include <mapio/chunk_stream.hpp>
#include <mapio/error.hpp>
#include <mapio/file_operations.hpp>
#include <mapio/mapped_file.hpp>
#include <mapio/mapping.hpp>
#include <mapio/options.hpp>
#include <mapio/region.hpp>
#include <mapio/segment.hpp>
#include <mapio/watcher.hpp>

#endif  // MAPIO_MAPIO_HPP
