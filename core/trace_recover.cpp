// SPDX-License-Identifier: Apache-2.0
#include "core/h5.h"
#include "core/probe.h"
#include "core/trace_columns.h"
#include "core/trace_lock.h"
#include "core/trace_reader.h"
#include "core/trace_schema.h"

namespace kvscope {

void RecoverTrace(const std::string& path) {
  if (IsBeingWritten(path)) {
    throw Error(StrCat(path, ": is still being written; wait for the capture or stop it, then recover"));
  }
  // Nothing is changed in a file that the reader does not accept.
  ProbeTraceInChild(path);
  const TraceStatus before = TraceReader::Open(path)->status();
  h5::File file = h5::File::OpenToRecover(path);
  if (before == TraceStatus::kRecording) {
    const uint8_t recovered = static_cast<uint8_t>(TraceStatus::kRecovered);
    file.OpenDataset(schema::kStatus).Write({0}, {1}, &recovered);
  }
  file.Close();
}

}  // namespace kvscope
