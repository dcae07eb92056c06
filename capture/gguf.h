// SPDX-License-Identifier: Apache-2.0
// A GGUF model file (versions 2 and 3, little endian), or the parts of one that was split, mapped into memory and read
// where they lie: opening costs one walk over the header, weights are touched when somebody asks for them. The file is
// hostile until checked: Open verifies every count, length, offset and product against the file's size, so that nothing
// later can leave the file. The file must not be cut short by another program while it is open.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "capture/gguf_blocks.h"

namespace kvscope {

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  std::vector<int64_t> shape;       // 1 to 4 extents, the fastest first: [cols, rows, ...], each at least 1
  std::span<const std::byte> data;  // in the mapping, aligned to 8 bytes at least; empty when the type is not readable
  int part = 0;                     // of a split model: index into paths()

  int64_t Cols() const { return shape[0]; }
  int64_t Rows() const;  // product of the extents after the first
};

// "[576, 192]"
std::string ShapeText(std::span<const int64_t> shape);

// A text from a file made fit for a one-line message: control bytes and non-ASCII as \xNN, cut after 80 bytes.
std::string Printable(std::string_view text);

class GgufFile {
 public:
  // Any part of a split model (NAME-00001-of-00003.gguf) opens all of it; they lie in one folder.
  // Throws Error: no such file, not a GGUF file, wrong version or byte order, cut short, inconsistent, a part missing
  // or of another model. Parts of two models with equal counts and no tensor name in common or missing look alike.
  static GgufFile Open(const std::string& path);
  // The same from memory, copied; names stand in messages and find the parts. For tests and fuzzing.
  static GgufFile FromBytes(const std::string& name, std::string_view bytes);
  static GgufFile FromBytes(const std::string& name, const std::map<std::string, std::string_view>& files);

  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::string& path() const { return paths_[0]; }             // of the first part, where the metadata is
  const std::vector<std::string>& paths() const { return paths_; }  // of every part, in order
  int64_t file_bytes() const;                                       // of all parts
  // Of one file its SHA-256; of parts that of their SHA-256s in order, each as 64 hex digits and a line feed:
  // `sha256sum NAME-*.gguf | cut -c 1-64 | sha256sum`. Reads everything. Error when a file cannot be read.
  std::string HexSha256OfFiles() const;
  int version() const { return version_; }

  // Metadata. Absent: nullopt. Present with another type, or a value that does not fit: Error naming file and key.
  // Int reads every integer type, Float also integers (never NaN or infinity). Views live as long as this file.
  bool Has(std::string_view key) const;
  bool HasArray(std::string_view key) const;  // of whatever elements
  std::optional<int64_t> Int(std::string_view key) const;
  std::optional<double> Float(std::string_view key) const;
  std::optional<bool> Bool(std::string_view key) const;
  std::optional<std::string_view> String(std::string_view key) const;
  std::optional<std::vector<std::string_view>> StringArray(std::string_view key) const;
  std::optional<std::vector<int64_t>> IntArray(std::string_view key) const;
  std::optional<std::vector<double>> FloatArray(std::string_view key) const;
  std::optional<std::vector<bool>> BoolArray(std::string_view key) const;

  // The same for keys a model cannot do without: absent is an Error too.
  int64_t RequireInt(std::string_view key) const;
  int64_t RequireIntIn(std::string_view key, int64_t low, int64_t high) const;  // both ends included
  double RequireFloat(std::string_view key) const;
  std::string_view RequireString(std::string_view key) const;
  std::vector<std::string_view> RequireStringArray(std::string_view key) const;
  std::vector<int64_t> RequireIntArray(std::string_view key) const;

  std::vector<std::string> Keys() const;  // sorted

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // in the file's order
  const GgufTensor* Find(std::string_view name) const;                 // nullptr when absent
  // Error when absent, of another shape (fastest extent first), or of a type that cannot be dequantised.
  const GgufTensor& RequireTensor(std::string_view name, std::span<const int64_t> shape) const;

  // Writes rows [first_row, first_row + out.size() / Cols()) of the tensor as floats (DequantizeRow); rows count over
  // all extents after the first. Error when the type is not readable or a value is not finite. Safe to call from
  // several threads.
  void Dequantize(const GgufTensor& tensor, int64_t first_row, std::span<float> out) const;

  // Gives back the memory that reading the tensor has taken; it can still be read, from the disk again. Thread-safe.
  void Release(const GgufTensor& tensor) const;

 private:
  friend class GgufParser;
  struct Storage;
  // A metadata value where it lies in the file; `count` and `element_type` are for arrays.
  struct Value {
    uint32_t type = 0;
    uint32_t element_type = 0;
    uint64_t count = 0;
    std::span<const std::byte> bytes;
  };

  struct Wanted {  // what a file is needed for, in messages
    std::string what, remedy;
  };
  using Opener = std::function<std::unique_ptr<Storage>(const std::string& path, const Wanted& wanted)>;

  GgufFile();
  static GgufFile Parse(std::string path, std::unique_ptr<Storage> storage);  // one part
  static GgufFile OpenParts(const std::string& path, const Opener& open_file);
  void CheckPart(int64_t index, int64_t count, int64_t num_tensors) const;
  void Append(GgufFile part);
  const Value* FindValue(std::string_view key) const;
  const Value* FindArray(std::string_view key) const;
  int64_t IntAt(std::string_view key, uint32_t type, const std::byte* from) const;
  double FloatAt(std::string_view key, uint32_t type, const std::byte* from) const;
  std::string Place(std::string_view key) const;
  std::string Place(const GgufTensor& tensor) const;
  [[noreturn]] void FailMissing(std::string_view key) const;

  int version_ = 0;
  std::vector<std::string> paths_;  // [parts]
  std::vector<std::unique_ptr<Storage>> storages_;
  std::map<std::string, Value, std::less<>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t, std::less<>> tensor_from_name_;
};

}  // namespace kvscope
