#pragma once
// The safetensors file format (https://github.com/huggingface/safetensors, "Format"): eight bytes of header
// length, a JSON header, then the data. A file is mapped, and every rule of the format is checked before a
// byte of it is used: header length and UTF-8, unique keys, known dtypes, products of shapes without
// overflow, offsets that cover the data without hole or overlap. Thread: reading from any; release() by one.
// Errors: kNotFound, kInvalid naming file, tensor and offset.

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
  const TensorView& tensor(
      const std::string& name) const;  // borrowed from the map; kNotFound names file and tensor
  const std::map<std::string, std::string>& metadata() const;  // "__metadata__"
  void release(
      const std::string& name) const;  // gives the tensor's pages back to the system; they can be read again

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The tensors of a model folder: model.safetensors, or the shards that model.safetensors.index.json names
// (each tensor of the index must be in its file, each file inside the folder).
class SafetensorsFolder {
 public:
  static SafetensorsFolder open(const std::string& folder);
  bool contains(const std::string& name) const;
  const TensorView& tensor(const std::string& name) const;
  void release(const std::string& name) const;
  std::vector<std::string> names() const;
  int64_t bytes() const;  // of tensor data, all files

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, size_t> file_of_;
};

// Writes a file that HF's reader takes: data sorted by name and aligned to eight bytes by padding the header
// with spaces. Written through AtomicFile: whole or not at all.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace coppice
