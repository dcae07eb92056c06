// SPDX-License-Identifier: Apache-2.0
// Where the bytes of a model come from: one mapped file, or the parts of a split one. A split model's parts are
// PREFIX-00001-of-00003.gguf and so on in one folder, each a GGUF file with tensors of its own and the keys split.no
// (from 0), split.count and split.tensors.count (over all parts); the model's other keys are in the first.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "capture/gguf.h"
#include "capture/gguf_format.h"
#include "core/error.h"
#include "core/sha256.h"

namespace kvscope {
namespace {

constexpr int64_t kMaxParts = 65535;  // split.count has 16 bits

// "-00002-of-00003.gguf"
std::string PartSuffix(int64_t part, int64_t num_parts) {
  const auto padded = [](int64_t number) {
    const std::string digits = std::to_string(number);
    return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
  };
  return StrCat("-", padded(part + 1), "-of-", padded(num_parts), ".gguf");
}

}  // namespace

GgufFile::Storage::Storage(std::string_view bytes) : copy_(bytes.size() / 8 + 1) {
  if (!bytes.empty()) std::memcpy(copy_.data(), bytes.data(), bytes.size());
  bytes_ = std::as_bytes(std::span(copy_)).first(bytes.size());
}

GgufFile::Storage::Storage(const std::string& path, const Wanted& wanted) {
  // O_NONBLOCK so that a named pipe does not hang us before we can refuse it.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0)
    throw Error(StrCat(path, ": expected ", wanted.what, ", found: ", std::strerror(errno), "; ", wanted.remedy));
  struct stat info {};
  const bool is_file = fstat(descriptor, &info) == 0 && S_ISREG(info.st_mode);
  if (!is_file || info.st_size == 0) {
    close(descriptor);
    throw Error(StrCat(path, ": expected ", wanted.what, ", found ",
                       is_file ? "an empty file" : "a folder, pipe or device", "; ", wanted.remedy));
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, descriptor, 0);
  const int map_errno = errno;
  close(descriptor);
  if (mapped == MAP_FAILED) {
    throw Error(StrCat(path, ": expected to map ", size, " bytes, found: ", std::strerror(map_errno),
                       "; copy the file to a local disk"));
  }
  is_mapped_ = true;
  bytes_ = {static_cast<const std::byte*>(mapped), size};
}

GgufFile::Storage::~Storage() {
  if (is_mapped_) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void GgufFile::Storage::Release(std::span<const std::byte> piece) const {
  if (!is_mapped_) return;
  // Whole pages inside the piece: those at its ends may be a neighbour's too.
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(piece.data()) + page - 1) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(piece.data() + piece.size()) / page * page;
  // Only a hint: where it fails, memory stays taken until the file is closed.
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

GgufFile GgufFile::Open(const std::string& path) {
  return OpenParts(
      path, [](const std::string& file, const Wanted& wanted) { return std::make_unique<Storage>(file, wanted); });
}

GgufFile GgufFile::FromBytes(const std::string& name, std::string_view bytes) {
  return FromBytes(name, std::map<std::string, std::string_view>{{name, bytes}});
}

GgufFile GgufFile::FromBytes(const std::string& name, const std::map<std::string, std::string_view>& files) {
  return OpenParts(name, [&](const std::string& file, const Wanted& wanted) {
    const auto found = files.find(file);
    if (found == files.end())
      throw Error(StrCat(file, ": expected ", wanted.what, ", found: nothing; ", wanted.remedy));
    return std::make_unique<Storage>(found->second);
  });
}

GgufFile GgufFile::OpenParts(const std::string& path, const Opener& open_file) {
  GgufFile given =
      Parse(path, open_file(path, {.what = "a GGUF model file", .remedy = "give the path of the .gguf file itself"}));
  if (given.Int("split.count").value_or(0) <= 1) return given;
  const int64_t count = given.RequireIntIn("split.count", 2, kMaxParts);
  const int64_t number = given.RequireIntIn("split.no", 0, count - 1);
  const int64_t num_tensors = given.RequireInt("split.tensors.count");
  if (!path.ends_with(PartSuffix(number, count))) {
    throw Error(StrCat(path, ": expected a name that ends in ", PartSuffix(number, count), ", for the file is part ",
                       number + 1, " of a model in ", count, "; give all parts the names they were published with"));
  }
  const std::string prefix = path.substr(0, path.size() - PartSuffix(number, count).size());
  const auto open_part = [&](int64_t index) {
    const std::string name = prefix + PartSuffix(index, count);
    const Wanted wanted{.what = StrCat("part ", index + 1, " of the ", count, " of this model"),
                        .remedy = "fetch all parts into one folder"};
    return index == number ? std::move(given) : Parse(name, open_file(name, wanted));
  };
  GgufFile model = open_part(0);
  model.CheckPart(0, count, num_tensors);
  for (int64_t index = 1; index < count; ++index) {
    GgufFile part = open_part(index);
    part.CheckPart(index, count, num_tensors);
    model.Append(std::move(part));
  }
  if (static_cast<int64_t>(model.tensors_.size()) != num_tensors) {
    throw Error(StrCat(path, ":split.tensors.count: expected ", num_tensors, " tensors in the ", count,
                       " parts, found ", model.tensors_.size(),
                       "; some are parts of another model, fetch all parts again"));
  }
  return model;
}

void GgufFile::CheckPart(int64_t index, int64_t count, int64_t num_tensors) const {
  const std::pair<const char*, int64_t> wanted[] = {
      {"split.no", index}, {"split.count", count}, {"split.tensors.count", num_tensors}};
  for (const auto& [key, value] : wanted) {
    if (const int64_t found = RequireInt(key); found != value) {
      throw Error(StrCat(Place(key), ": expected ", value, " as the other parts say, found ", found,
                         "; the file is part of another model or bears a wrong name, fetch all parts again"));
    }
  }
}

void GgufFile::Append(GgufFile part) {
  for (const auto& [key, value] : part.values_) {
    const Value* mine = FindValue(key);
    if (!mine || key == "split.no" || key == "general.alignment") continue;  // a part's own
    if (mine->type != value.type || !std::ranges::equal(mine->bytes, value.bytes)) {
      throw Error(StrCat(part.Place(key), ": expected the value that ", path(), " has, found another",
                         "; the file is part of another model, fetch all parts again"));
    }
  }
  for (GgufTensor& tensor : part.tensors_) {
    tensor.part = static_cast<int>(paths_.size());
    const auto [found, is_new] = tensor_from_name_.emplace(tensor.name, tensors_.size());
    if (!is_new) {
      throw Error(StrCat(part.Place(tensor.name), ": expected every tensor in one part, found this one in ",
                         paths_[tensors_[found->second].part], " too; fetch all parts of one model again"));
    }
    tensors_.push_back(std::move(tensor));
  }
  paths_.push_back(part.path());
  storages_.push_back(std::move(part.storages_[0]));
}

int64_t GgufFile::file_bytes() const {
  int64_t bytes = 0;
  for (const auto& storage : storages_) bytes += static_cast<int64_t>(storage->bytes().size());
  return bytes;
}

void GgufFile::Release(const GgufTensor& tensor) const {
  storages_[tensor.part]->Release(tensor.data);
}

std::string GgufFile::HexSha256OfFiles() const {
  if (paths_.size() == 1) return HexSha256OfFile(path());
  std::string digests;
  for (const std::string& path : paths_) digests += HexSha256OfFile(path) + "\n";
  return HexSha256(std::as_bytes(std::span(digests)));
}

}  // namespace kvscope
