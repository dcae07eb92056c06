// SPDX-License-Identifier: Apache-2.0
// A thin owner of HDF5 files, data sets and attributes; only h5.cpp and h5_attributes.cpp include hdf5.h.
//
// Objects are named by absolute path. Opening checks every link on the way (hard links only), the layout, the filters
// and the element type, so a reader that has a Dataset can trust its rank and extents to be what HDF5 believes, but
// must still bound them. Elements are never converted: the type in the file must be exactly the type asked for.
// All calls hold one global lock, because HDF5 is one global state machine. Failures throw Error naming file and
// object.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace kvscope::h5 {

enum class Type { kU8, kI32, kI64, kU64, kF16, kF32, kF64 };
size_t ElementBytes(Type type);
std::string_view Name(Type type);

using Extents = std::vector<uint64_t>;
inline constexpr uint64_t kUnlimited = ~uint64_t{0};
std::string Text(const Extents& extents);  // "[9, 512, 64]"
// Throws Error(place) when the product reaches 2^59.
uint64_t NumElements(const Extents& extents, const std::string& place);

// Owns one HDF5 identifier.
class Id {
 public:
  Id() = default;
  explicit Id(int64_t id) : id_(id) {}
  Id(Id&& other) noexcept : id_(std::exchange(other.id_, -1)) {}
  Id& operator=(Id&& other) noexcept;
  ~Id();
  int64_t get() const { return id_; }
  explicit operator bool() const { return id_ >= 0; }
  int Close();  // negative when the last writes of a file failed

 private:
  int64_t id_ = -1;
};

struct DatasetShape {
  Type type = Type::kU8;
  Extents extents;
  Extents max_extents;
  Extents chunk;             // empty: contiguous
  bool zero_filled = false;  // parts of a chunk that were never written read as zero; costs one write more per chunk
};

class Dataset {
 public:
  const std::string& place() const { return place_; }  // "file:/path"
  Type type() const { return type_; }
  const Extents& extents() const { return extents_; }
  const Extents& chunk() const { return chunk_; }  // empty: not chunked
  void SetExtents(const Extents& extents);
  // One block; [count] elements from [start]. Extends nothing.
  void Write(const Extents& start, const Extents& count, const void* data);
  // One whole chunk, also where it reaches beyond the extents. start: its first element.
  void WriteChunk(const Extents& start, const void* data);
  void Read(const Extents& start, const Extents& count, void* data) const;
  // Reloads the extents that another process may have changed.
  void Refresh();
  // Throws unless the file really holds about as much data as the extents promise, so that a small hostile file
  // cannot make a reader take much memory. `sparse` allows for parts that were never written.
  void CheckStored(uint64_t sparse = 1) const;

 private:
  friend class File;
  void LoadExtents();
  Id id_;
  std::string place_;
  Type type_ = Type::kU8;
  Extents extents_, chunk_;
  bool is_filtered_ = false;
};

class File {
 public:
  static File Create(const std::string& path);
  // A file left by a writer, or still being written, opens in single-writer/multiple-reader mode.
  static File OpenToRead(const std::string& path);
  // Clears the marks of an interrupted writer and opens for writing.
  static File OpenToRecover(const std::string& path);

  const std::string& path() const { return path_; }
  void SetPath(std::string path) { path_ = std::move(path); }  // after a rename: for messages
  bool is_followed() const { return is_followed_; }            // opened in single-writer/multiple-reader mode
  void StartSwmr();                                            // from here on nothing may be created
  void Flush();
  void Close();                  // throws when the last writes fail
  uint64_t bytes() const;        // as HDF5 counts it
  uint64_t end_of_data() const;  // first byte after everything allocated

  void CreateGroup(const std::string& object);
  Dataset CreateDataset(const std::string& object, const DatasetShape& shape);
  bool Exists(const std::string& object) const;  // through hard links only; throws on any other link
  Dataset OpenDataset(const std::string& object) const;
  std::vector<std::string> ListAll() const;  // every group and dataset ("/a/b") and attribute ("/a/b@name")

  void WriteText(const std::string& object, const char* name, std::string_view text);
  void WriteInteger(const std::string& object, const char* name, int64_t value);
  void WriteUnsigned(const std::string& object, const char* name, uint64_t value);
  void WriteReal(const std::string& object, const char* name, double value);
  void WriteIntegers(const std::string& object, const char* name, const std::vector<int>& values);
  bool HasAttribute(const std::string& object, const char* name) const;
  std::string ReadText(const std::string& object, const char* name) const;
  int64_t ReadInteger(const std::string& object, const char* name) const;
  uint64_t ReadUnsigned(const std::string& object, const char* name) const;
  double ReadReal(const std::string& object, const char* name) const;
  std::vector<int> ReadIntegers(const std::string& object, const char* name) const;

 private:
  Id OpenAttribute(const std::string& object, const char* name, uint64_t max_elements, uint64_t* num_elements) const;
  Id OpenObject(const std::string& object) const;
  void WriteAttribute(const std::string& object, const char* name, int64_t file_type, int64_t memory_type,
                      const std::vector<uint64_t>& extents, const void* data);
  void ReadNumber(const std::string& object, const char* name, bool real, int64_t memory_type, void* value) const;
  std::string Place(const std::string& object, const char* name = nullptr) const;
  Id id_;
  std::string path_;
  bool is_followed_ = false;
};

// Held by every call above, by one thread at a time and any number of times. Hold it across fork(), and the child finds
// HDF5 in a usable state.
class Lock {
 public:
  Lock();
  ~Lock();
  Lock(const Lock&) = delete;
  Lock& operator=(const Lock&) = delete;
};

}  // namespace kvscope::h5
