#pragma once
// The safetensors file format (https://github.com/huggingface/safetensors, "Format"): eight bytes of header
// length, a JSON header, then the data. A file is mapped, and every rule of the format is checked before a
// byte of it is used: header length and UTF-8, unique keys, known dtypes, products of shapes without
// overflow, offsets that cover the data without hole or overlap up to the file's end. A tensor of a dtype
// that DType does not have (BOOL, F64, F8_E4M3, ...) may stand in a file; only asking for it is an error. A
// file must not be cut while it is mapped: touching what is gone ends the process (SIGBUS). Thread: reading
// from any; release() by one. Errors: kNotFound, kInvalid naming file, tensor and offset; kUnsupported
// (dtype).

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/tensor/tensor.h"

namespace coppice {

class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&&) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept;

  const std::string& path() const;
  std::vector<std::string> names() const;  // sorted
  bool contains(const std::string& name) const;
  // Borrowed from the map. kNotFound and kUnsupported name file and tensor.
  const TensorView& tensor(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const;  // "__metadata__"
  int64_t bytes() const;                                       // of tensor data
  // Gives the tensor's pages back to the system; they can be read again.
  void release(const std::string& name) const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The tensors of a model folder: model.safetensors, or else the shards that model.safetensors.index.json
// names (each tensor of the index must be in its file, each file inside the folder). What a shard holds
// beyond the index is not listed.
class SafetensorsFolder {
 public:
  static SafetensorsFolder open(const std::string& folder);
  bool contains(const std::string& name) const;
  const TensorView& tensor(const std::string& name) const;
  void release(const std::string& name) const;
  std::vector<std::string> names() const;
  int64_t bytes() const;  // of tensor data, all files

 private:
  size_t file_index(const std::string& name) const;
  std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;
};

// Writes a file that HF's readers take, which want every tensor aligned to its elements: larger elements
// first, then by name, and the header padded with spaces to a multiple of eight. Written as
// write_file_atomically does. Errors: as there; kInvalid for a name that stands twice or is not UTF-8.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace coppice
