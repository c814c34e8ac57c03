#include "common/io/safetensors.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <set>
#include <string_view>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/io/files.h"
#include "common/io/json.h"

namespace coppice {
namespace {

static_assert(std::endian::native == std::endian::little,
              "safetensors files are little-endian and used in place");

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the limit of the format's own reader
constexpr std::string_view kMetadata = "__metadata__";

struct FileDType {
  std::string_view name;
  uint64_t bits;
  std::optional<DType> dtype;  // empty: known to the format, but not to us
};

constexpr std::array<FileDType, 22> kFileDTypes = {{
    {"F32", 32, DType::kF32},         {"F16", 16, DType::kF16},     {"BF16", 16, DType::kBF16},
    {"I64", 64, DType::kI64},         {"I32", 32, DType::kI32},     {"U8", 8, DType::kU8},
    {"BOOL", 8, std::nullopt},        {"I8", 8, std::nullopt},      {"I16", 16, std::nullopt},
    {"U16", 16, std::nullopt},        {"U32", 32, std::nullopt},    {"U64", 64, std::nullopt},
    {"F64", 64, std::nullopt},        {"C64", 64, std::nullopt},    {"F8_E4M3", 8, std::nullopt},
    {"F8_E5M2", 8, std::nullopt},     {"F8_E8M0", 8, std::nullopt}, {"F8_E4M3FNUZ", 8, std::nullopt},
    {"F8_E5M2FNUZ", 8, std::nullopt}, {"F6_E2M3", 6, std::nullopt}, {"F6_E3M2", 6, std::nullopt},
    {"F4", 4, std::nullopt},
}};

struct Entry {
  const FileDType* type = nullptr;
  TensorView view;  // its dtype means nothing where type->dtype is empty
};

struct Extent {
  uint64_t begin, end;  // in the data, which begins after the header
  const std::string* name;
};

std::string tensor_text(const std::string& path, const std::string& name) {
  return path + ": tensor " + shown(std::string_view(name));
}

// A number of a header list; negative, fractional and larger than 2^63 - 1 are not.
std::optional<uint64_t> count_of(const Json& value) {
  if (!value.is_number_unsigned()) return std::nullopt;
  const uint64_t count = value.get<uint64_t>();
  if (count > uint64_t(std::numeric_limits<int64_t>::max())) return std::nullopt;
  return count;
}

}  // namespace

struct SafetensorsFile::Impl {
  std::string path;
  const std::byte* map = nullptr;
  uint64_t size = 0;
  uint64_t data_begin = 0;  // the offset in the file of the first byte after the header
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;

  ~Impl() {
    if (map) ::munmap(const_cast<std::byte*>(map), size);
  }

  void map_file();
  void read_header();
  void read_metadata(const Json& value);
  Extent read_entry(const std::string& name, const Json& value);
  void check_cover(std::vector<Extent> extents) const;
  const Entry& find(const std::string& name) const;
};

void SafetensorsFile::Impl::map_file() {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw system_error(path, "cannot open", errno);
  struct stat status;
  const bool known = ::fstat(fd, &status) == 0;
  void* memory = MAP_FAILED;
  int number = known ? 0 : errno;
  if (known && S_ISREG(status.st_mode) && uint64_t(status.st_size) > kLengthBytes) {
    size = uint64_t(status.st_size);
    memory = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) number = errno;
  }
  ::close(fd);
  if (number != 0) throw system_error(path, "cannot map", number);
  if (!S_ISREG(status.st_mode)) throw invalid("{}: not a regular file; a safetensors file is accepted", path);
  if (memory == MAP_FAILED) {
    throw invalid("{}: {} bytes long; a safetensors file has 8 bytes of header length and a header", path,
                  status.st_size);
  }
  map = static_cast<const std::byte*>(memory);
}

void SafetensorsFile::Impl::read_header() {
  uint64_t header_bytes;
  std::memcpy(&header_bytes, map, kLengthBytes);
  if (header_bytes > kMaxHeaderBytes) {
    throw invalid("{}: header length at offset 0 is {}; at most {} is accepted", path, header_bytes,
                  kMaxHeaderBytes);
  }
  if (header_bytes > size - kLengthBytes) {
    throw invalid("{}: the header ends at offset {}, the file at {}; the file is cut", path,
                  kLengthBytes + header_bytes, size);
  }
  data_begin = kLengthBytes + header_bytes;
  const std::string_view text(reinterpret_cast<const char*>(map) + kLengthBytes, header_bytes);
  if (!text.starts_with('{')) throw invalid("{}: the header at offset 8 does not begin with {{", path);
  const Json header = parse_json(text, path + ": header");

  std::vector<Extent> extents;
  for (const auto& item : header.items()) {
    if (item.key() == kMetadata) {
      read_metadata(item.value());
    } else {
      extents.push_back(read_entry(item.key(), item.value()));
    }
  }
  check_cover(std::move(extents));
}

void SafetensorsFile::Impl::read_metadata(const Json& value) {
  if (!value.is_object()) {
    throw invalid("{}: __metadata__ is {}; an object of strings is accepted", path, shown(value));
  }
  for (const auto& item : value.items()) {
    if (!item.value().is_string()) {
      throw invalid("{}: __metadata__.{} is {}; a string is accepted", path,
                    shown(std::string_view(item.key())), shown(item.value()));
    }
    metadata[item.key()] = item.value().get<std::string>();
  }
}

Extent SafetensorsFile::Impl::read_entry(const std::string& name, const Json& value) {
  const std::string tensor = tensor_text(path, name);
  if (!value.is_object()) throw invalid("{} is {}; an object is accepted", tensor, shown(value));
  for (const auto& item : value.items()) {
    if (item.key() != "dtype" && item.key() != "shape" && item.key() != "data_offsets") {
      throw invalid("{} has a key {}; dtype, shape and data_offsets are accepted", tensor,
                    shown(std::string_view(item.key())));
    }
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) throw invalid("{} has no {}", tensor, key);
  }
  const Json &dtype = value["dtype"], &shape = value["shape"], &offsets = value["data_offsets"];

  Entry entry;
  if (dtype.is_string()) {
    const auto* found = std::find_if(kFileDTypes.begin(), kFileDTypes.end(), [&](const FileDType& known) {
      return known.name == dtype.get_ref<const std::string&>();
    });
    if (found != kFileDTypes.end()) entry.type = found;
  }
  if (!entry.type)
    throw invalid("{}: dtype is {}; F32, F16, BF16, I64, ... are accepted", tensor, shown(dtype));

  if (!shape.is_array()) throw invalid("{}: shape is {}; a list of sizes is accepted", tensor, shown(shape));
  uint64_t bits = entry.type->bits;
  for (const Json& element : shape) {
    const auto size = count_of(element);
    if (!size)
      throw invalid("{}: shape {} holds {}; a size is accepted", tensor, shown(shape), shown(element));
    if (__builtin_mul_overflow(bits, *size, &bits) || bits > uint64_t(std::numeric_limits<int64_t>::max())) {
      throw invalid("{}: shape {} of {} overflows 64 bits", tensor, shown(shape), entry.type->name);
    }
    entry.view.shape.push_back(int64_t(*size));
  }
  if (bits % 8 != 0)
    throw invalid("{}: shape {} of {} ends inside a byte", tensor, shown(shape), entry.type->name);

  const bool pair = offsets.is_array() && offsets.size() == 2 && count_of(offsets[0]) && count_of(offsets[1]);
  if (!pair) throw invalid("{}: data_offsets is {}; [begin, end] is accepted", tensor, shown(offsets));
  const uint64_t begin = *count_of(offsets[0]), end = *count_of(offsets[1]);
  if (begin > end) throw invalid("{}: data_offsets {} end before they begin", tensor, shown(offsets));
  if (end - begin != bits / 8) {
    throw invalid("{}: data_offsets {} hold {} bytes, shape {} of {} needs {}", tensor, shown(offsets),
                  end - begin, shown(shape), entry.type->name, bits / 8);
  }
  if (end > size - data_begin) {
    throw invalid("{} lies at offset {} to {} of the file, which ends at {}; the file is cut", tensor,
                  data_begin + begin, data_begin + end, size);
  }
  entry.view.dtype = entry.type->dtype.value_or(DType::kU8);
  entry.view.bytes = {map + data_begin + begin, size_t(end - begin)};
  const auto placed = entries.emplace(name, std::move(entry)).first;
  return {begin, end, &placed->first};
}

// Tensors side by side from the data's first byte to its last.
void SafetensorsFile::Impl::check_cover(std::vector<Extent> extents) const {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  });
  uint64_t reached = 0;
  for (const Extent& extent : extents) {
    if (extent.begin != reached) {
      throw invalid("{} begins at offset {}, {} offset {}, where the data before it ends",
                    tensor_text(path, *extent.name), data_begin + extent.begin,
                    extent.begin > reached ? "which leaves a hole from" : "which overlaps what lies before",
                    data_begin + reached);
    }
    reached = extent.end;
  }
  if (reached != size - data_begin) {
    throw invalid("{}: the tensors end at offset {}, the file at {}", path, data_begin + reached, size);
  }
}

const Entry& SafetensorsFile::Impl::find(const std::string& name) const {
  const auto found = entries.find(name);
  if (found == entries.end()) throw not_found("{} does not exist", tensor_text(path, name));
  return found->second;
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsFile::~SafetensorsFile() = default;
SafetensorsFile::SafetensorsFile(SafetensorsFile&&) noexcept = default;
SafetensorsFile& SafetensorsFile::operator=(SafetensorsFile&&) noexcept = default;

SafetensorsFile SafetensorsFile::open(const std::string& path) {
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->map_file();
  impl->read_header();
  return SafetensorsFile(std::move(impl));
}

const std::string& SafetensorsFile::path() const {
  return impl_->path;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : impl_->entries) names.push_back(name);
  return names;
}

bool SafetensorsFile::contains(const std::string& name) const {
  return impl_->entries.contains(name);
}

const TensorView& SafetensorsFile::tensor(const std::string& name) const {
  const Entry& entry = impl_->find(name);
  if (!entry.type->dtype) {
    throw unsupported("{} has dtype {}; F32, F16, BF16, I64, I32 and U8 are supported",
                      tensor_text(path(), name), entry.type->name);
  }
  return entry.view;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->metadata;
}

int64_t SafetensorsFile::bytes() const {
  return int64_t(impl_->size - impl_->data_begin);
}

void SafetensorsFile::release(const std::string& name) const {
  const auto bytes = impl_->find(name).view.bytes;
  if (bytes.empty()) return;
  // Pages at both ends may hold neighbours too: they are read again from the file when touched.
  const uint64_t page = uint64_t(::sysconf(_SC_PAGESIZE));
  const uint64_t begin = uint64_t(bytes.data() - impl_->map) / page * page;
  const uint64_t end = uint64_t(bytes.data() - impl_->map) + bytes.size();
  // Advice: where the system does not take it, the pages stay.
  ::madvise(const_cast<std::byte*>(impl_->map) + begin, end - begin, MADV_DONTNEED);
}

namespace {

// The file of each tensor, as the index says.
std::map<std::string, std::string> read_weight_map(const std::string& path) {
  const Json index = read_json_file(path);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    throw invalid("{}: an object with the key weight_map is accepted", path);
  }
  std::map<std::string, std::string> files;
  for (const auto& item : index["weight_map"].items()) {
    const std::string tensor = tensor_text(path, item.key());
    if (!item.value().is_string())
      throw invalid("{} is in {}; a file name is accepted", tensor, shown(item.value()));
    const auto& file = item.value().get_ref<const std::string&>();
    if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos ||
        file.find('\\') != std::string::npos || file.find('\0') != std::string::npos) {
      throw invalid("{} is in {}; the name of a file in the same folder is accepted", tensor,
                    shown(std::string_view(file)));
    }
    files[item.key()] = file;
  }
  if (files.empty()) throw invalid("{}: weight_map is empty", path);
  return files;
}

}  // namespace

SafetensorsFolder SafetensorsFolder::open(const std::string& folder) {
  SafetensorsFolder result;
  result.folder_ = folder;
  const std::string single = folder + "/model.safetensors", index = single + ".index.json";
  const auto exists = [](const std::string& path) {
    std::error_code ignored;
    return std::filesystem::exists(path, ignored);
  };
  if (exists(single)) {
    result.files_.push_back(SafetensorsFile::open(single));
    for (const std::string& name : result.files_[0].names()) result.file_of_[name] = 0;
    return result;
  }
  if (!exists(index)) {
    if (!exists(folder)) throw not_found("{}: no such folder", folder);
    const bool pickled =
        exists(folder + "/pytorch_model.bin") || exists(folder + "/pytorch_model.bin.index.json");
    throw not_found("{}: neither model.safetensors nor model.safetensors.index.json is there{}", folder,
                    pickled ? "; pytorch_model.bin is not read, save the model as safetensors" : "");
  }
  std::map<std::string, size_t> opened;
  for (const auto& [name, file] : read_weight_map(index)) {
    const auto [at, fresh] = opened.emplace(file, result.files_.size());
    if (fresh) {
      if (!exists(folder + "/" + file)) {
        throw not_found("{}: tensor {} is in {}, which is missing", index, shown(std::string_view(name)),
                        file);
      }
      result.files_.push_back(SafetensorsFile::open(folder + "/" + file));
    }
    if (!result.files_[at->second].contains(name)) {
      throw invalid("{}: tensor {} is not in {}", index, shown(std::string_view(name)), file);
    }
    result.file_of_[name] = at->second;
  }
  return result;
}

size_t SafetensorsFolder::file_index(const std::string& name) const {
  const auto found = file_of_.find(name);
  if (found == file_of_.end()) throw not_found("{} does not exist", tensor_text(folder_, name));
  return found->second;
}

bool SafetensorsFolder::contains(const std::string& name) const {
  return file_of_.contains(name);
}

const TensorView& SafetensorsFolder::tensor(const std::string& name) const {
  return files_[file_index(name)].tensor(name);
}

void SafetensorsFolder::release(const std::string& name) const {
  files_[file_index(name)].release(name);
}

std::vector<std::string> SafetensorsFolder::names() const {
  std::vector<std::string> names;
  for (const auto& [name, file] : file_of_) names.push_back(name);
  return names;
}

int64_t SafetensorsFolder::bytes() const {
  int64_t total = 0;
  for (const SafetensorsFile& file : files_) total += file.bytes();
  return total;
}

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::vector<const std::pair<std::string, TensorView>*> order;
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    const size_t a_size = dtype_size(a->second.dtype), b_size = dtype_size(b->second.dtype);
    return a_size != b_size ? a_size > b_size : a->first < b->first;
  });

  Json header = Json::object();
  if (!metadata.empty()) header[std::string(kMetadata)] = metadata;
  uint64_t end = 0;
  std::set<std::string_view> seen = {kMetadata};
  for (const auto* tensor : order) {
    const auto& [name, view] = *tensor;
    CHECK(view.bytes.size() == uint64_t(element_count(view.shape)) * dtype_size(view.dtype));
    if (!seen.insert(name).second) throw invalid("{}: a second tensor of this name", tensor_text(path, name));
    const uint64_t begin = end;
    end += view.bytes.size();
    // Appended, since looking for a key in an ordered object is linear.
    static_cast<std::vector<Json::object_t::value_type>&>(header.get_ref<Json::object_t&>())
        .emplace_back(
            name,
            Json{{"dtype", dtype_name(view.dtype)}, {"shape", view.shape}, {"data_offsets", {begin, end}}});
  }

  std::string text;
  try {
    text = header.dump();
  } catch (const Json::exception&) {
    throw invalid("{}: a tensor's name or the metadata is not UTF-8", path);
  }
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  if (text.size() > kMaxHeaderBytes) {
    throw invalid("{}: the header has {} bytes; at most {} are accepted", path, text.size(), kMaxHeaderBytes);
  }
  const uint64_t length = text.size();
  write_file_atomically(path, [&](const Append& append) {
    append({reinterpret_cast<const char*>(&length), kLengthBytes});
    append(text);
    for (const auto* tensor : order) {
      const auto bytes = tensor->second.bytes;
      append({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    }
  });
}

}  // namespace coppice
