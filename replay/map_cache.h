// SPDX-License-Identifier: Apache-2.0
// Exact maps of whole heads, kept in memory and, where one took long, in files beside the trace: <trace>.maps/, a file
// a head. The folder may go at any time. A file counts only when its checksum holds and it was made from this very
// trace at this size; else it is ignored and written anew. Where nothing can be written maps stay in memory, quietly.
//
// A file, little endian: "kvsmap1\n"; 64 hexadecimal digits, SHA-256 of the trace's identity; int32 layer, head (of the
// model), query_begin, query_end, token_begin, token_end, rows, columns; for each row uint32 n and n float32 weights,
// its first cells, all behind them being kNoWeight; 64 digits, SHA-256 of everything before.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "replay/weight_map.h"

namespace kvscope {

// Safe to use from several threads.
class MapCache {
 public:
  // identity: changes when the trace at this path does.
  MapCache(const std::string& trace_path, const std::string& identity);

  // The map of a head (layer and head of the model) of exactly this window and number of cells, or null.
  std::shared_ptr<const WeightCells> Find(int layer, int head, const MapWindow& window, int rows, int columns);
  // Remembers a map; on disk too when it is worth it.
  void Keep(int layer, int head, std::shared_ptr<const WeightCells> map, bool is_worth_a_file);

  // What has not been used for longest goes first: so many bytes of files a trace, and of maps in memory.
  static constexpr int64_t kMostFileBytes = 256'000'000, kMostMemoryBytes = 64'000'000;

 private:
  struct Entry {
    int layer, head;
    std::shared_ptr<const WeightCells> map;
  };
  std::string PathOf(int layer, int head) const;
  std::string HeadOfFile(int layer, int head, const WeightCells& shape) const;
  std::shared_ptr<const WeightCells> Read(int layer, int head, WeightCells shape) const;
  void Write(int layer, int head, const WeightCells& map) const;
  void MakeRoom(int64_t bytes) const;
  void Remember(Entry entry);

  std::string folder_, identity_;  // the digest of the identity
  std::mutex mutex_;
  std::list<Entry> entries_;  // in memory, the last used first
};

}  // namespace kvscope
