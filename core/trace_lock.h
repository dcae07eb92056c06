// SPDX-License-Identifier: Apache-2.0
// Tells a trace that is being written from one whose writer is gone. HDF5's own lock is given up when followers are let
// in, so a writer holds a lock of ours, of a kind that HDF5 does not use and that dies with the process.
#pragma once

#include <string>

namespace kvscope {

class WriterLock {
 public:
  WriterLock() = default;
  explicit WriterLock(const std::string& path);  // quietly holds nothing where the file system has no locks
  ~WriterLock();
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;

 private:
  int file_ = -1;
};

bool IsBeingWritten(const std::string& path);

}  // namespace kvscope
