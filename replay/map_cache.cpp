// SPDX-License-Identifier: Apache-2.0
#include "replay/map_cache.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <vector>

#include "core/error.h"
#include "core/sha256.h"

namespace kvscope {
namespace {

constexpr int kMaking = 1;  // raise it when weight_map.h makes other cells of the same trace

namespace fs = std::filesystem;
static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[] = "kvsmap1\n";
constexpr size_t kDigestBytes = 64;

std::string DigestOf(std::string_view bytes) {
  return HexSha256(std::as_bytes(std::span(bytes)));
}

// Of a softmax, with room for rounding.
bool IsWeight(float value) {
  return (value >= 0 && value <= 1.01f) || value == WeightCells::kNoWeight;
}

template <typename Number>
void Append(std::string& bytes, Number number) {
  bytes.append(reinterpret_cast<const char*>(&number), sizeof number);
}

// The whole of a regular file of a size in the range, or nothing.
std::optional<std::string> ReadAll(const std::string& path, size_t least, size_t most) {
  std::error_code failure;
  if (fs::symlink_status(path, failure).type() != fs::file_type::regular) return {};
  std::ifstream file(path, std::ios::binary);
  if (!file.seekg(0, std::ios::end)) return {};
  const auto size = static_cast<int64_t>(file.tellg());
  if (size < static_cast<int64_t>(least) || size > static_cast<int64_t>(most)) return {};
  std::string bytes(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(bytes.data(), size)) return {};
  return bytes;
}

// All of it under its name, or nothing.
void WriteAll(const std::string& path, const std::string& bytes) {
  static std::atomic<int> num_written{0};  // two caches of one process may write the same map
  const std::string part = StrCat(path, ".", getpid(), ".", num_written++, ".part");
  std::error_code ignored;
  fs::remove(part, ignored);
  std::FILE* const file = std::fopen(part.c_str(), "wbx");  // x: not through a link that someone left there
  if (!file) return;
  const bool is_written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  if (std::fclose(file) != 0 || !is_written) {
    fs::remove(part, ignored);
    return;
  }
  fs::rename(part, path, ignored);
  fs::remove(part, ignored);  // where it could not be renamed
}

int64_t MemoryBytes(const WeightCells& map) {
  return static_cast<int64_t>(map.cells.size() * sizeof(float));
}

}  // namespace

MapCache::MapCache(const std::string& trace_path, const std::string& identity)
    : folder_(trace_path + ".maps"), identity_(DigestOf(StrCat(identity, "\n", kMaking))) {}

std::string MapCache::PathOf(int layer, int head) const {
  return StrCat(folder_, "/layer-", layer, "-head-", head, ".map");
}

std::string MapCache::HeadOfFile(int layer, int head, const WeightCells& shape) const {
  std::string bytes = kMagic + identity_;
  for (const int32_t number : {layer, head, shape.window.query_begin, shape.window.query_end, shape.window.token_begin,
                               shape.window.token_end, shape.rows, shape.columns}) {
    Append(bytes, number);
  }
  return bytes;
}

// `shape` without cells. Everything is checked: the file may come from anyone.
std::shared_ptr<const WeightCells> MapCache::Read(int layer, int head, WeightCells shape) const {
  const std::string expected = HeadOfFile(layer, head, shape);
  const size_t rows = shape.rows, columns = shape.columns, least = expected.size() + rows * 4 + kDigestBytes;
  const std::string path = PathOf(layer, head);
  const std::optional<std::string> bytes = ReadAll(path, least, least + rows * columns * 4);
  if (!bytes || !bytes->starts_with(expected)) return nullptr;
  const std::string_view body = std::string_view(*bytes).substr(0, bytes->size() - kDigestBytes);
  if (DigestOf(body) != bytes->substr(body.size())) return nullptr;
  shape.cells.assign(rows * columns, WeightCells::kNoWeight);
  std::string_view left = body.substr(expected.size());
  for (size_t row = 0; row < rows; ++row) {
    uint32_t count = 0;
    if (left.size() < sizeof count) return nullptr;
    std::memcpy(&count, left.data(), sizeof count);
    left.remove_prefix(sizeof count);
    if (count > columns || left.size() < count * sizeof(float)) return nullptr;
    if (count > 0) std::memcpy(&shape.cells[row * columns], left.data(), count * sizeof(float));
    left.remove_prefix(count * sizeof(float));
  }
  if (!left.empty() || !std::ranges::all_of(shape.cells, IsWeight)) return nullptr;
  std::error_code ignored;
  fs::last_write_time(path, fs::file_time_type::clock::now(), ignored);  // when it was used
  return std::make_shared<const WeightCells>(std::move(shape));
}

void MapCache::Write(int layer, int head, const WeightCells& map) const {
  if (!std::ranges::all_of(map.cells, IsWeight)) return;  // of a damaged trace
  std::error_code failure;
  fs::create_directory(folder_, failure);
  if (fs::symlink_status(folder_, failure).type() != fs::file_type::directory) return;
  std::string bytes = HeadOfFile(layer, head, map);
  for (int row = 0; row < map.rows; ++row) {
    const float* const cells = &map.cells[static_cast<size_t>(row) * map.columns];
    uint32_t count = map.columns;
    while (count > 0 && cells[count - 1] == WeightCells::kNoWeight) --count;
    Append(bytes, count);
    bytes.append(reinterpret_cast<const char*>(cells), count * sizeof(float));
  }
  bytes += DigestOf(bytes);
  if (static_cast<int64_t>(bytes.size()) > kMostFileBytes) return;
  MakeRoom(static_cast<int64_t>(bytes.size()));
  WriteAll(PathOf(layer, head), bytes);
  fs::remove(folder_, failure);  // only when nothing is in it
}

// Removes files of ours until `bytes` more fit. What others put there stays and does not count.
void MapCache::MakeRoom(int64_t bytes) const {
  struct File {
    fs::path path;
    int64_t bytes;
    fs::file_time_type used;
  };
  std::vector<File> files;
  std::error_code failure;
  for (fs::directory_iterator place(folder_, failure), end; !failure && place != end; place.increment(failure)) {
    const fs::directory_entry& entry = *place;
    const std::string name = entry.path().filename().string();
    const bool is_ours = name.starts_with("layer-") && (name.ends_with(".map") || name.ends_with(".part"));
    if (!is_ours || entry.symlink_status(failure).type() != fs::file_type::regular) continue;
    files.push_back({entry.path(), static_cast<int64_t>(entry.file_size(failure)), entry.last_write_time(failure)});
    bytes += files.back().bytes;
  }
  std::ranges::sort(files, {}, &File::used);
  for (const File& file : files) {
    if (bytes <= kMostFileBytes) break;
    if (fs::remove(file.path, failure)) bytes -= file.bytes;
  }
}

void MapCache::Remember(Entry entry) {
  std::erase_if(entries_, [&](const Entry& old) { return old.layer == entry.layer && old.head == entry.head; });
  entries_.push_front(std::move(entry));
  int64_t bytes = 0;
  for (const Entry& kept : entries_) bytes += MemoryBytes(*kept.map);
  while (bytes > kMostMemoryBytes && !entries_.empty()) {
    bytes -= MemoryBytes(*entries_.back().map);
    entries_.pop_back();
  }
}

std::shared_ptr<const WeightCells> MapCache::Find(int layer, int head, const MapWindow& window, int rows, int columns) {
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {
    if (entry.layer != layer || entry.head != head) continue;
    if (entry.map->window != window || entry.map->rows != rows || entry.map->columns != columns) continue;
    const Entry found = entry;
    Remember(found);
    return found.map;
  }
  std::shared_ptr<const WeightCells> map = Read(layer, head, {window, rows, columns, {}});
  if (map) Remember({layer, head, map});
  return map;
}

void MapCache::Keep(int layer, int head, std::shared_ptr<const WeightCells> map, bool is_worth_a_file) {
  const std::lock_guard lock(mutex_);
  if (is_worth_a_file) Write(layer, head, *map);
  Remember({layer, head, std::move(map)});
}

}  // namespace kvscope
