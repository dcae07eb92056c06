// SPDX-License-Identifier: Apache-2.0
// The first read of an unknown file happens in a child process with limits on time and memory: HDF5 itself can crash
// or hang on a hostile file. What the child has read, the caller may read after it.
#pragma once

#include <functional>
#include <string>

namespace kvscope {

// Throws Error when `read` did in the child, with its words, or when the child crashed or took too long.
void ProbeInChild(const std::string& path, const std::function<void()>& read, double timeout_secs = 20);

// Opens it as a trace. Opening walks every chunk index, so what later reads touch has been touched in the child.
void ProbeTraceInChild(const std::string& path, double timeout_secs = 20);
// Whether the file says that it holds results, however damaged; false for what cannot be opened.
bool SaysResultsInChild(const std::string& path, double timeout_secs = 20);

}  // namespace kvscope
