// SPDX-License-Identifier: Apache-2.0
#include "core/h5.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <mutex>

#include "core/error.h"
#include "core/h5_internal.h"

namespace kvscope::h5 {
namespace {

std::mutex& Mutex() {
  static std::mutex mutex;
  return mutex;
}
thread_local int lock_depth = 0;

// IEEE binary16, little endian: the layout that h5py knows as float16.
hid_t HalfType() {
  static const hid_t type = [] {
    const hid_t half = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(half, 15, 10, 5, 0, 10);
    H5Tset_size(half, 2);
    H5Tset_ebias(half, 15);
    H5Tlock(half);
    return half;
  }();
  return type;
}

hid_t Handle(Type type) {
  switch (type) {
    case Type::kU8:
      return H5T_STD_U8LE;
    case Type::kI32:
      return H5T_STD_I32LE;
    case Type::kI64:
      return H5T_STD_I64LE;
    case Type::kU64:
      return H5T_STD_U64LE;
    case Type::kF16:
      return HalfType();
    case Type::kF32:
      return H5T_IEEE_F32LE;
    case Type::kF64:
      return H5T_IEEE_F64LE;
  }
  KVSCOPE_CHECK(false);
  return -1;
}

constexpr Type kTypes[] = {Type::kU8, Type::kI32, Type::kI64, Type::kU64, Type::kF16, Type::kF32, Type::kF64};

// How every file is opened: newest format, no chunk cache. Without filters HDF5 then moves exactly the bytes asked for
// between our buffers and the file, and never reads a chunk in order to write a part of it.
Id FileAccess() {
  Id access(H5Pcreate(H5P_FILE_ACCESS));
  H5Pset_libver_bounds(access.get(), H5F_LIBVER_LATEST, H5F_LIBVER_LATEST);
  H5Pset_cache(access.get(), 0, 521, 0, 1.0);
  H5Pset_fclose_degree(access.get(), H5F_CLOSE_STRONG);
  H5Pset_file_locking(access.get(), true, true);
  H5Pset_meta_block_size(access.get(), 64 << 10);
  return access;
}

// HDF5 hangs or crashes on some things that are not files of its own; look before it does.
void CheckSignature(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) throw Error(StrCat(path, ": cannot be opened (", std::strerror(errno), ")"));
  struct stat status = {};
  char head[8] = {};
  const bool is_file = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
  const bool has_head = is_file && pread(file, head, 8, 0) == 8;
  close(file);
  if (!is_file) throw Error(StrCat(path, ": expected a file, found something else; give a *.kvtrace.h5 file"));
  if (!has_head || std::memcmp(head, "\211HDF\r\n\032\n", 8) != 0) {
    throw Error(StrCat(path, ": not an HDF5 file; expected a trace written by kvscope capture"));
  }
}

}  // namespace

// The innermost description of HDF5's error stack, with its errno text when there is one.
std::string WhyItFailed() {
  std::string why;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_DOWNWARD,
      [](unsigned, const H5E_error2_t* entry, void* out) -> herr_t {
        if (entry->desc && *entry->desc) *static_cast<std::string*>(out) = entry->desc;
        return 0;
      },
      &why);
  const size_t at = why.find("error message = '");
  if (at != std::string::npos) {
    const size_t begin = at + std::strlen("error message = '");
    why = why.substr(begin, why.find('\'', begin) - begin);
  }
  H5Eclear2(H5E_DEFAULT);
  return why.empty() ? "unknown reason" : why;
}

void Fail(const std::string& place, std::string_view what) {
  const std::string why = WhyItFailed();
  const bool full = why.find("No space left") != std::string::npos;
  throw Error(StrCat(place, ": ", what, " failed (", why, full ? "); free space on that disk or choose another" : ")"));
}

// Not a recursive mutex: those remember a thread number that is another one in the child of a fork.
Lock::Lock() {
  if (lock_depth++ > 0) return;
  Mutex().lock();
  // HDF5's own clean-up at exit crashes when a file could not be closed on a full disk. Everything here has an owner.
  static const bool no_cleanup_at_exit = H5dont_atexit() >= 0;
  static_cast<void>(no_cleanup_at_exit);
  // A thread-safe HDF5 keeps one error stack, and one printer of it, per thread.
  thread_local const bool silenced = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  static_cast<void>(silenced);
}

Lock::~Lock() {
  if (--lock_depth == 0) Mutex().unlock();
}

size_t ElementBytes(Type type) {
  constexpr size_t kBytes[] = {1, 4, 8, 8, 2, 4, 8};
  return kBytes[static_cast<int>(type)];
}

std::string_view Name(Type type) {
  constexpr std::string_view kNames[] = {"u8", "i32", "i64", "u64", "f16", "f32", "f64"};
  return kNames[static_cast<int>(type)];
}

std::string Text(const Extents& extents) {
  std::string text = "[";
  for (const uint64_t extent : extents) text += (text.size() > 1 ? ", " : "") + std::to_string(extent);
  return text + "]";
}

uint64_t NumElements(const Extents& extents, const std::string& place) {
  uint64_t product = 1;
  for (const uint64_t extent : extents) {
    if (__builtin_mul_overflow(product, extent, &product) || product >> 59) {
      throw Error(StrCat(place, ": extents ", Text(extents), " overflow; the file is damaged"));
    }
  }
  return product;
}

Id& Id::operator=(Id&& other) noexcept {
  Close();
  id_ = std::exchange(other.id_, -1);
  return *this;
}

Id::~Id() {
  Close();
}

int Id::Close() {
  if (id_ < 0) return 0;
  const Lock lock;
  return H5Idec_ref(std::exchange(id_, -1));  // never tried twice
}

// --- data sets

void Dataset::LoadExtents() {
  const Id space(Check(H5Dget_space(id_.get()), place_, "reading its extents"));
  const int rank = H5Sget_simple_extent_ndims(space.get());
  if (rank < 1 || rank > 4) throw Error(StrCat(place_, ": expected 1 to 4 dimensions, found ", rank));
  std::vector<hsize_t> now(rank);
  Check(H5Sget_simple_extent_dims(space.get(), now.data(), nullptr), place_, "reading its extents");
  extents_.assign(now.begin(), now.end());
  NumElements(extents_, place_);
}

void Dataset::SetExtents(const Extents& extents) {
  if (extents == extents_) return;
  const Lock lock;
  const std::vector<hsize_t> wanted(extents.begin(), extents.end());
  Check(H5Dset_extent(id_.get(), wanted.data()), place_, "growing");
  extents_ = extents;
}

namespace {

// The part of the file that a block covers, and a memory space of the same shape.
std::pair<Id, Id> Spaces(const Id& dataset, const Extents& extents, const Extents& start, const Extents& count,
                         const std::string& place) {
  KVSCOPE_CHECK_EQ(start.size(), extents.size());
  KVSCOPE_CHECK_EQ(count.size(), extents.size());
  for (size_t dim = 0; dim < start.size(); ++dim) KVSCOPE_CHECK_LE(start[dim] + count[dim], extents[dim]);
  const std::vector<hsize_t> begin(start.begin(), start.end()), size(count.begin(), count.end());
  Id file_space(Check(H5Dget_space(dataset.get()), place, "reading its extents"));
  Check(H5Sselect_hyperslab(file_space.get(), H5S_SELECT_SET, begin.data(), nullptr, size.data(), nullptr), place,
        "selecting a part");
  Id memory_space(Check(H5Screate_simple(static_cast<int>(size.size()), size.data(), nullptr), place, "selecting"));
  return {std::move(file_space), std::move(memory_space)};
}

bool IsEmpty(const Extents& count) {
  for (const uint64_t extent : count) {
    if (extent == 0) return true;
  }
  return false;
}

}  // namespace

void Dataset::Write(const Extents& start, const Extents& count, const void* data) {
  if (IsEmpty(count)) return;
  const Lock lock;
  const auto [file_space, memory_space] = Spaces(id_, extents_, start, count, place_);
  Check(H5Dwrite(id_.get(), Handle(type_), memory_space.get(), file_space.get(), H5P_DEFAULT, data), place_, "writing");
}

void Dataset::WriteChunk(const Extents& start, const void* data) {
  const Lock lock;
  const std::vector<hsize_t> begin(start.begin(), start.end());
  const size_t bytes = NumElements(chunk_, place_) * ElementBytes(type_);
  Check(H5Dwrite_chunk(id_.get(), H5P_DEFAULT, 0, begin.data(), bytes, data), place_, "writing");
}

void Dataset::Read(const Extents& start, const Extents& count, void* data) const {
  if (IsEmpty(count)) return;
  const Lock lock;
  const auto [file_space, memory_space] = Spaces(id_, extents_, start, count, place_);
  Check(H5Dread(id_.get(), Handle(type_), memory_space.get(), file_space.get(), H5P_DEFAULT, data), place_, "reading");
}

void Dataset::Refresh() {
  const Lock lock;
  Check(H5Drefresh(id_.get()), place_, "refreshing");
  LoadExtents();
}

void Dataset::CheckStored(uint64_t sparse) const {
  const Lock lock;
  constexpr uint64_t kDeflateMost = 1032;                  // deflate cannot shrink by more
  const uint64_t stored = H5Dget_storage_size(id_.get());  // walks the whole chunk index
  const uint64_t promised = NumElements(extents_, place_) * ElementBytes(type_);
  H5Eclear2(H5E_DEFAULT);
  if (promised / (is_filtered_ ? kDeflateMost : sparse) > stored) {
    throw Error(StrCat(place_, ": extents ", Text(extents_), " promise ", promised, " bytes, the file holds ", stored,
                       "; the file is damaged"));
  }
}

// --- files

File File::Create(const std::string& path) {
  const Lock lock;
  const Id access = FileAccess();
  File file;
  file.path_ = path;
  file.id_ = Id(Check(H5Fcreate(path.c_str(), H5F_ACC_EXCL, H5P_DEFAULT, access.get()), path, "creating the file"));
  return file;
}

File File::OpenToRead(const std::string& path) {
  CheckSignature(path);
  const Lock lock;
  const Id access = FileAccess();
  File file;
  file.path_ = path;
  file.id_ = Id(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()));
  if (file.id_) return file;
  const std::string why = WhyItFailed();
  // A block that a writer is replacing may fail its checksum at first. HDF5 doubles the pause after every attempt, so
  // this many take about a quarter of a second; the default of 100 would never end on a damaged file.
  H5Pset_metadata_read_attempts(access.get(), 28);
  file.id_ = Id(H5Fopen(path.c_str(), H5F_ACC_RDONLY | H5F_ACC_SWMR_READ, access.get()));
  if (!file.id_) {
    H5Eclear2(H5E_DEFAULT);
    throw Error(StrCat(path, ": HDF5 cannot open it (", why, "); the file is damaged or was cut short"));
  }
  file.is_followed_ = true;
  return file;
}

File File::OpenToRecover(const std::string& path) {
  CheckSignature(path);
  const Lock lock;
  const Id access = FileAccess();
  const hbool_t yes = true;
  H5Pset(access.get(), "clear_status_flags", &yes);
  H5Pset(access.get(), "skip_eof_check", &yes);
  File file;
  file.path_ = path;
  file.id_ = Id(Check(H5Fopen(path.c_str(), H5F_ACC_RDWR, access.get()), path, "opening for recovery"));
  // What was written after the last flush may lie beyond the end that the superblock knows.
  Check(H5Fincrement_filesize(file.id_.get(), 0), path, "recovering its length");
  return file;
}

void File::StartSwmr() {
  const Lock lock;
  Check(H5Fstart_swmr_write(id_.get()), path_, "starting to write for followers");
}

void File::Flush() {
  const Lock lock;
  Check(H5Fflush(id_.get(), H5F_SCOPE_LOCAL), path_, "writing");
}

void File::Close() {
  if (!id_) return;
  const Lock lock;
  Check(id_.Close(), path_, "closing the file");
}

uint64_t File::bytes() const {
  const Lock lock;
  hsize_t size = 0;
  Check(H5Fget_filesize(id_.get(), &size), path_, "reading its length");
  return size;
}

uint64_t File::end_of_data() const {
  const Lock lock;
  haddr_t end = 0;
  Check(H5Fget_eoa(id_.get(), &end), path_, "reading its length");
  return end;
}

std::string File::Place(const std::string& object, const char* name) const {
  return name ? StrCat(path_, ":", object, "@", name) : StrCat(path_, ":", object);
}

void File::CreateGroup(const std::string& object) {
  const Lock lock;
  const Id create(H5Pcreate(H5P_GROUP_CREATE));
  H5Pset_attr_phase_change(create.get(), 64, 0);  // attributes stay in the header: a few kB less per group
  H5Pset_link_phase_change(create.get(), 64, 0);
  const Id group(Check(H5Gcreate2(id_.get(), object.c_str(), H5P_DEFAULT, create.get(), H5P_DEFAULT), Place(object),
                       "creating the group"));
}

Dataset File::CreateDataset(const std::string& object, const DatasetShape& shape) {
  const Lock lock;
  Dataset dataset;
  dataset.place_ = Place(object);
  dataset.type_ = shape.type;
  dataset.extents_ = shape.extents;
  dataset.chunk_ = shape.chunk;
  const std::vector<hsize_t> now(shape.extents.begin(), shape.extents.end());
  std::vector<hsize_t> most;
  for (const uint64_t extent : shape.max_extents) most.push_back(extent == kUnlimited ? H5S_UNLIMITED : extent);
  const Id space(Check(H5Screate_simple(static_cast<int>(now.size()), now.data(), most.empty() ? nullptr : most.data()),
                       dataset.place_, "creating"));
  const Id create(H5Pcreate(H5P_DATASET_CREATE));
  if (!shape.chunk.empty()) {
    const std::vector<hsize_t> chunk(shape.chunk.begin(), shape.chunk.end());
    Check(H5Pset_chunk(create.get(), static_cast<int>(chunk.size()), chunk.data()), dataset.place_, "choosing chunks");
  }
  H5Pset_fill_time(create.get(), shape.zero_filled ? H5D_FILL_TIME_ALLOC : H5D_FILL_TIME_NEVER);
  dataset.id_ = Id(Check(
      H5Dcreate2(id_.get(), object.c_str(), Handle(shape.type), space.get(), H5P_DEFAULT, create.get(), H5P_DEFAULT),
      dataset.place_, "creating"));
  return dataset;
}

bool File::Exists(const std::string& object) const {
  const Lock lock;
  for (size_t end = 1; end <= object.size(); ++end) {
    if (end != object.size() && object[end] != '/') continue;
    const std::string part = object.substr(0, end);
    if (part == "/") return true;
    const htri_t found = H5Lexists(id_.get(), part.c_str(), H5P_DEFAULT);
    if (found < 0) Fail(Place(part), "looking it up");
    if (found == 0) return false;
    H5L_info_t info = {};
    Check(H5Lget_info(id_.get(), part.c_str(), &info, H5P_DEFAULT), Place(part), "looking it up");
    if (info.type != H5L_TYPE_HARD)
      throw Error(StrCat(Place(part), ": expected a plain object, found a link; refused"));
  }
  return true;
}

Id File::OpenObject(const std::string& object) const {
  if (!Exists(object)) throw Error(StrCat(Place(object), ": missing; the file is not a whole trace"));
  return Id(Check(H5Oopen(id_.get(), object.c_str(), H5P_DEFAULT), Place(object), "opening"));
}

namespace {

// Chunk extents, empty when contiguous. Refuses data outside the file and filters that are not part of HDF5.
Extents CheckStorage(const Id& dataset, size_t rank, const std::string& place, bool* is_filtered) {
  const Id create(Check(H5Dget_create_plist(dataset.get()), place, "reading its storage"));
  const H5D_layout_t layout = H5Pget_layout(create.get());
  if (layout != H5D_CHUNKED && layout != H5D_CONTIGUOUS && layout != H5D_COMPACT) {
    throw Error(StrCat(place, ": expected data in this file, found a virtual data set; copy the data into one file"));
  }
  if (layout != H5D_CHUNKED && H5Pget_external_count(create.get()) != 0) {
    throw Error(StrCat(place, ": expected data in this file, found external storage; copy the data into one file"));
  }
  const int num_filters = H5Pget_nfilters(create.get());
  *is_filtered = num_filters > 0;
  for (int i = 0; i < num_filters; ++i) {
    unsigned flags = 0, config = 0;
    size_t num_values = 0;
    const H5Z_filter_t filter = H5Pget_filter2(create.get(), i, &flags, &num_values, nullptr, 0, nullptr, &config);
    if (filter != H5Z_FILTER_DEFLATE && filter != H5Z_FILTER_SHUFFLE && filter != H5Z_FILTER_FLETCHER32) {
      throw Error(StrCat(place, ": filter ", filter, " is not supported; store it with gzip, shuffle or no filter"));
    }
  }
  if (layout != H5D_CHUNKED) return {};
  std::vector<hsize_t> chunk(rank);
  if (H5Pget_chunk(create.get(), static_cast<int>(rank), chunk.data()) != static_cast<int>(rank)) {
    Fail(place, "reading its chunk shape");
  }
  Extents extents(chunk.begin(), chunk.end());
  constexpr uint64_t kMostChunkElements = 64 << 20;
  if (NumElements(extents, place) > kMostChunkElements || NumElements(extents, place) == 0) {
    throw Error(StrCat(place, ": chunk shape ", Text(extents), " is not usable; the file is damaged"));
  }
  return extents;
}

}  // namespace

Dataset File::OpenDataset(const std::string& object) const {
  const Lock lock;
  Dataset dataset;
  dataset.place_ = Place(object);
  dataset.id_ = OpenObject(object);
  if (H5Iget_type(dataset.id_.get()) != H5I_DATASET) {
    throw Error(StrCat(dataset.place_, ": expected a data set, found something else"));
  }
  const Id type(Check(H5Dget_type(dataset.id_.get()), dataset.place_, "reading its element type"));
  bool known = false;
  for (const Type candidate : kTypes) {
    if (H5Tequal(type.get(), Handle(candidate)) <= 0) continue;
    dataset.type_ = candidate;
    known = true;
  }
  if (!known) {
    throw Error(StrCat(dataset.place_, ": element type is none of u8, i32, i64, u64, f16, f32, f64 in little endian"));
  }
  dataset.LoadExtents();
  dataset.chunk_ = CheckStorage(dataset.id_, dataset.extents_.size(), dataset.place_, &dataset.is_filtered_);
  return dataset;
}

std::vector<std::string> File::ListAll() const {
  const Lock lock;
  std::vector<std::string> names;
  const auto visit = [](hid_t root, const char* name, const H5O_info_t* info, void* out) -> herr_t {
    auto& list = *static_cast<std::vector<std::string>*>(out);
    const std::string object = std::strcmp(name, ".") == 0 ? "/" : StrCat("/", name);
    list.push_back(object);
    for (hsize_t i = 0; i < info->num_attrs; ++i) {
      char text[256] = {};
      if (H5Aget_name_by_idx(root, name, H5_INDEX_NAME, H5_ITER_INC, i, text, sizeof text, H5P_DEFAULT) < 0) return -1;
      list.push_back(StrCat(object, "@", text));
    }
    return 0;
  };
  Check(H5Ovisit2(id_.get(), H5_INDEX_NAME, H5_ITER_INC, visit, &names, H5O_INFO_BASIC | H5O_INFO_NUM_ATTRS), path_,
        "listing its objects");
  return names;
}

}  // namespace kvscope::h5
