// SPDX-License-Identifier: Apache-2.0
// Checks one GGUF file. Layout: "GGUF", version u32, tensor count u64, key count u64; keys {text name, type,
// value}; tensors {text name, extents u32, extent u64 each, type u32, offset u64}; padding; tensor data. A text is a
// length u64 and its bytes. Nothing is allocated on the word of the file: counts are compared with what the rest of the
// file could hold, and values stay where they lie.
#include <cstring>
#include <utility>

#include "capture/gguf.h"
#include "capture/gguf_format.h"
#include "core/error.h"

namespace kvscope {
namespace {

constexpr size_t kHeaderBytes = 24;
constexpr size_t kMinKeyBytes = 8 + 4 + 1;             // empty name, type, one byte of value
constexpr size_t kMinTensorBytes = 8 + 4 + 8 + 4 + 8;  // empty name, extent count, one extent, type, offset
constexpr size_t kMaxNameBytes = 65535;
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kMaxAlignment = 1 << 20;
constexpr int64_t kMaxElements = int64_t{1} << 48;

}  // namespace

std::string Printable(std::string_view text) {
  constexpr size_t kShown = 80;
  std::string shown;
  for (const char c : text.substr(0, kShown)) {
    if (c >= ' ' && c <= '~') {
      shown += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      shown += StrCat("\\x", "0123456789abcdef"[byte >> 4], "0123456789abcdef"[byte & 15]);
    }
  }
  return text.size() > kShown ? shown + "..." : shown;
}

// Walks the header once; `at_` never passes the end of the file.
class GgufParser {
 public:
  explicit GgufParser(GgufFile* file) : file_(*file), bytes_(file->storages_[0]->bytes()) {}

  void Run() {
    ReadHeader();
    for (uint64_t i = 0; i < num_keys_; ++i) ReadKey(i);
    ReadAlignment();
    for (uint64_t i = 0; i < num_tensors_; ++i) ReadTensor(i);
    PlaceTensors();
  }

 private:
  [[noreturn]] void Fail(const std::string& what) const { throw Error(StrCat(file_.path(), ": ", what)); }

  // Takes the next `count` bytes, or says that the file ends before `what`.
  const std::byte* Take(uint64_t count, const std::string& what) {
    const uint64_t left = bytes_.size() - at_;
    if (count > left) {
      Fail(StrCat("expected ", count, " bytes of ", what, " at byte ", at_, ", found ", left,
                  "; the file was cut short or is damaged, fetch it again"));
    }
    return bytes_.data() + std::exchange(at_, at_ + count);
  }

  template <typename T>
  T TakeNumber(const std::string& what) {
    T value;
    std::memcpy(&value, Take(sizeof(T), what), sizeof(T));
    return value;
  }

  std::string TakeName(const std::string& what) {
    const auto length = TakeNumber<uint64_t>(what);
    if (length > kMaxNameBytes) {
      Fail(StrCat("expected a name of at most ", kMaxNameBytes, " bytes for ", what, ", found a length of ", length,
                  "; the file is damaged, fetch it again"));
    }
    const std::byte* from = Take(length, what);
    return std::string(reinterpret_cast<const char*>(from), length);
  }

  uint64_t TakeCount(const char* what, size_t min_bytes_each) {
    const auto count = TakeNumber<uint64_t>(what);
    if (count > (bytes_.size() - at_) / min_bytes_each) {
      Fail(StrCat("expected at most ", (bytes_.size() - at_) / min_bytes_each, " ", what, " in ", bytes_.size(),
                  " bytes, found a count of ", count, "; the file was cut short or is damaged, fetch it again"));
    }
    return count;
  }

  void ReadHeader() {
    const std::string_view start(reinterpret_cast<const char*>(bytes_.data()), std::min<size_t>(bytes_.size(), 8));
    if (start.substr(0, 4) != "GGUF") {
      Fail(StrCat("expected a GGUF model file, found ", bytes_.size(), " bytes that begin with '", Printable(start),
                  "'; give the .gguf file itself"));
    }
    if (bytes_.size() < kHeaderBytes) {
      Fail(StrCat("expected ", kHeaderBytes, " bytes of header, found ", bytes_.size(),
                  "; the file was cut short, fetch it again"));
    }
    at_ = 4;
    const auto version = TakeNumber<uint32_t>("version");
    if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3)) {
      Fail("expected little endian, found a big endian GGUF file; convert the model again for this machine");
    }
    if (version != 2 && version != 3) {
      Fail(StrCat("expected GGUF version 2 or 3, found ", version,
                  version == 1 ? "; convert the model again with a current converter" : "; update kvscope"));
    }
    file_.version_ = static_cast<int>(version);
    num_tensors_ = TakeNumber<uint64_t>("tensor count");
    num_keys_ = TakeCount("metadata keys", kMinKeyBytes);
    if (num_tensors_ > (bytes_.size() - at_) / kMinTensorBytes) {
      Fail(StrCat("expected at most ", (bytes_.size() - at_) / kMinTensorBytes, " tensors in ", bytes_.size(),
                  " bytes, found a count of ", num_tensors_, "; the file was cut short or is damaged, fetch it again"));
    }
  }

  void SkipText(const std::string& what) {
    const auto length = TakeNumber<uint64_t>(what);
    Take(length, what);
  }

  // Walks over a value of this type; an array's element type and count are returned through `value`.
  void SkipValue(uint32_t type, const std::string& what, int depth, GgufFile::Value* value) {
    if (const size_t scalar = gguf::ScalarBytes(type)) {
      Take(scalar, what);
    } else if (type == gguf::kString) {
      SkipText(what);
    } else if (type == gguf::kArray) {
      SkipArray(what, depth, value);
    } else {
      Fail(StrCat("expected a value type from 0 to 12 for ", what, ", found ", type,
                  "; the file is damaged or newer than this program"));
    }
  }

  void SkipArray(const std::string& what, int depth, GgufFile::Value* value) {
    if (depth >= kMaxArrayDepth) {
      Fail(StrCat("expected arrays at most ", kMaxArrayDepth, " deep for ", what, ", found more; the file is damaged"));
    }
    const auto element_type = TakeNumber<uint32_t>(what);
    const auto count = TakeNumber<uint64_t>(what);
    const size_t scalar = gguf::ScalarBytes(element_type);
    // The least an element can take: its size, a text's length, or an array's type and count.
    const size_t least = scalar > 0 ? scalar : element_type == gguf::kArray ? 12 : 8;
    if (count > (bytes_.size() - at_) / least) {
      Fail(StrCat("expected at most ", (bytes_.size() - at_) / least, " array elements for ", what,
                  ", found a count of ", count, "; the file was cut short or is damaged, fetch it again"));
    }
    if (value) {
      value->element_type = element_type;
      value->count = count;
    }
    if (scalar > 0) {
      Take(count * scalar, what);
    } else {
      for (uint64_t i = 0; i < count; ++i) SkipValue(element_type, what, depth + 1, nullptr);
    }
  }

  void ReadKey(uint64_t index) {
    const std::string name = TakeName(StrCat("metadata key ", index));
    const std::string what = StrCat("metadata key '", Printable(name), "'");
    GgufFile::Value value;
    value.type = TakeNumber<uint32_t>(what);
    const size_t begin = at_;
    SkipValue(value.type, what, 0, &value);
    const size_t data_begin = value.type == gguf::kArray ? begin + 12 : begin;
    value.bytes = bytes_.subspan(data_begin, at_ - data_begin);
    if (!file_.values_.emplace(name, value).second) {
      Fail(StrCat("expected every key once, found ", what, " twice; the file is damaged"));
    }
  }

  void ReadAlignment() {
    const int64_t alignment = file_.Int("general.alignment").value_or(32);
    if (alignment < 8 || static_cast<uint64_t>(alignment) > kMaxAlignment || (alignment & (alignment - 1)) != 0) {
      Fail(StrCat("expected general.alignment to be a power of two from 8 to ", kMaxAlignment, ", found ", alignment,
                  "; the file is damaged"));
    }
    alignment_ = static_cast<uint64_t>(alignment);
  }

  void ReadTensor(uint64_t index) {
    GgufTensor tensor;
    tensor.name = TakeName(StrCat("tensor ", index));
    const std::string what = StrCat("tensor '", Printable(tensor.name), "'");
    const auto num_extents = TakeNumber<uint32_t>(what);
    if (num_extents < 1 || num_extents > 4) {
      Fail(StrCat("expected 1 to 4 extents for ", what, ", found ", num_extents, "; the file is damaged"));
    }
    int64_t elements = 1;
    for (uint32_t i = 0; i < num_extents; ++i) {
      const auto extent = TakeNumber<uint64_t>(what);
      if (extent < 1 || extent > static_cast<uint64_t>(kMaxElements / elements)) {
        Fail(StrCat("expected extents from 1 and at most 2^48 elements for ", what, ", found an extent of ", extent,
                    "; the file is damaged"));
      }
      tensor.shape.push_back(static_cast<int64_t>(extent));
      elements *= static_cast<int64_t>(extent);
    }
    tensor.type = static_cast<GgufType>(TakeNumber<uint32_t>(what));
    if (IsReadable(tensor.type) && tensor.Cols() % GgufBlockElements(tensor.type) != 0) {
      Fail(StrCat("expected rows of ", what, " to be whole ", GgufTypeName(tensor.type), " blocks of ",
                  GgufBlockElements(tensor.type), ", found ", tensor.Cols(), " columns; the file is damaged"));
    }
    offsets_.push_back(TakeNumber<uint64_t>(what));
    if (!file_.tensor_from_name_.emplace(tensor.name, file_.tensors_.size()).second) {
      Fail(StrCat("expected every tensor once, found ", what, " twice; the file is damaged"));
    }
    file_.tensors_.push_back(std::move(tensor));
  }

  void PlaceTensors() {
    const uint64_t data_begin = (at_ + alignment_ - 1) / alignment_ * alignment_;
    const uint64_t data_bytes = data_begin <= bytes_.size() ? bytes_.size() - data_begin : 0;
    for (size_t i = 0; i < file_.tensors_.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      const std::string what = StrCat("tensor '", Printable(tensor.name), "'");
      const uint64_t offset = offsets_[i];
      if (offset % alignment_ != 0) {
        Fail(StrCat("expected the offset of ", what, " to be a multiple of ", alignment_, ", found ", offset,
                    "; the file is damaged"));
      }
      // What a type we cannot read takes is unknown; at least its first byte must be there.
      const uint64_t size =
          IsReadable(tensor.type) ? static_cast<uint64_t>(GgufRowBytes(tensor.type, tensor.Cols()) * tensor.Rows()) : 1;
      if (offset > data_bytes || size > data_bytes - offset) {
        Fail(StrCat("expected ", size, " bytes of ", what, " at byte ", offset,
                    " of the tensor data, found a file that holds ", data_bytes,
                    " bytes of it; the file was cut short or is damaged, fetch it again"));
      }
      if (IsReadable(tensor.type)) tensor.data = bytes_.subspan(data_begin + offset, size);
    }
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  size_t at_ = 0;
  uint64_t num_tensors_ = 0;
  uint64_t num_keys_ = 0;
  uint64_t alignment_ = 32;
  std::vector<uint64_t> offsets_;
};

GgufFile GgufFile::Parse(std::string path, std::unique_ptr<Storage> storage) {
  GgufFile file;
  file.paths_.push_back(std::move(path));
  file.storages_.push_back(std::move(storage));
  GgufParser(&file).Run();
  return file;
}

}  // namespace kvscope
