#pragma once
// How much memory a run will take on a host, before it takes it: frozen weights, rows in flight, adapters
// with their optimizer state, the jobs' data, the stores. Says of a job whether it fits now, later or never,
// with the numbers. One model a host: what of the run is there is given in. The measured peak of a run lies
// within 10 % of total_bytes (tests/integration/test_memory.py; `coppice bench` prints both). Thread: any.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "coordinator/jobs/job_data.h"
#include "coordinator/schedule/planner.h"
#include "kernels/backend.h"
#include "worker/backbone/config.h"
#include "worker/peft/method.h"

namespace coppice {

// Of the memory of a job's data: a dataset, which other jobs may share (by its identity), or what is the
// job's own (0).
struct DataPart {
  int64_t dataset = 0;
  int64_t bytes = 0;
  bool operator==(const DataPart&) const = default;
};
using DataParts = std::array<DataPart, 3>;  // each dataset once
DataParts parts_of(const JobData& data);    // with the order that batching keeps of its rows
int64_t data_bytes(const DataParts& parts);

// What a job asks for. Borrows its method.
struct JobMemory {
  const MethodConfig* method = nullptr;
  DataParts data{};              // on the coordinator's host
  int64_t micro_batch_rows = 0;  // of its largest
  int64_t step_rows = 0;         // of all micro-batches of its largest step: a pack may hold them all
  int64_t evaluation_rows = 0;   // of all micro-batches of its evaluation
  bool checkpointing = false;
};

// kLater: beside fewer jobs. kNever: not even alone.
enum class Fit { kNow, kLater, kNever };
struct FitAnswer {
  Fit fit = Fit::kNow;
  std::string message;  // the numbers, and what would need less; empty where it fits now
};

// What a total is made of.
struct MemoryParts {
  int64_t program = 0;  // code and libraries with what they keep, of all processes here
  int64_t weights = 0;
  int64_t packs = 0;      // packs_bytes
  int64_t jobs = 0;       // jobs_bytes
  int64_t gradients = 0;  // on stages and shards, beside the copies of adapters that commits write
  int64_t stores = 0;     // RocksDB's
  int64_t total() const { return program + weights + packs + jobs + gradients + stores; }
};

struct MemoryModel {
  BackboneConfig config;
  int64_t weight_bytes = 0;  // packed, of all stages of this host
  DType compute = DType::kF32;
  int64_t threads = 1;      // of a rank
  int64_t pack_rows = 0;    // of a full pack
  int64_t packs = 1;        // in flight, of a pipeline
  int64_t limit_bytes = 0;  // what may be used

  // What is on this host.
  std::string host;                // named in messages; empty where there is one alone
  std::vector<LayerRange> stages;  // one for each stage that is here, of any pipeline
  bool in_turn = true;             // they are all here, in one process that computes one after the other
  bool coordinator = true;         // rank 0: the data of jobs
  double parameter_share = 1;      // of each adapter, in the parts of the parameter server that are here
  int64_t stores = 1;              // rank 0's, and those of shards
  int64_t processes = 1;

  // Rows in flight of these jobs: what stages keep for the backward, what they compute with, and the largest
  // piece of logits. A pack is of one kind, with checkpointing or without, and either may fill all of them.
  int64_t packs_bytes(std::span<const JobMemory> jobs) const;
  int64_t largest_pack_rows(std::span<const JobMemory> jobs) const;

  // On this host: of one alone, and of several, which share datasets.
  int64_t job_bytes(const JobMemory& job) const;
  int64_t jobs_bytes(std::span<const JobMemory> jobs) const;
  // Of RocksDB's buffers and caches, where so much is written between two flushes.
  int64_t store_bytes(int64_t written_bytes) const;
  // All that a run of these jobs takes here, and what that is made of.
  MemoryParts parts(std::span<const JobMemory> jobs) const;
  int64_t total_bytes(std::span<const JobMemory> jobs) const { return parts(jobs).total(); }

  // Whether a job fits beside others, which have been admitted.
  FitAnswer fit(const std::string& job, const JobMemory& wanted, std::span<const JobMemory> others) const;

 private:
  struct Flight;
  int64_t shard_bytes(const JobMemory& job) const;
  int64_t stage_bytes(const JobMemory& job) const;
  void add_passing(std::span<const JobMemory> jobs, MemoryParts& parts) const;
  int64_t packs_at(const LayerRange& stage) const;
  Flight flight(std::span<const JobMemory> jobs) const;
  int64_t packs_of_kind_bytes(std::span<const JobMemory> jobs) const;
  int64_t block_row_bytes(bool checkpointing) const;
  int64_t kept_row_bytes(const JobMemory& job, const LayerRange& stage) const;
  int64_t kept_bytes(std::span<const JobMemory> jobs, const LayerRange& stage, int64_t rows) const;
  int64_t working_bytes(const LayerRange& stage, int64_t rows, std::span<const JobMemory> jobs) const;
};

// The frozen weights of a stage on this device once they have gone both ways, and the embedding's table
// (stored as `table`) where it is not the head that is there.
int64_t frozen_weight_bytes(const Backend& device, const BackboneConfig& config, const LayerRange& stage,
                            DType compute, DType table);

// On all hosts: the worst of their answers.
FitAnswer fit_on_hosts(std::span<const MemoryModel> hosts, const std::string& job, const JobMemory& wanted,
                       std::span<const JobMemory> others);

int64_t available_memory_bytes();  // of this host now, within the limits of its control group
int64_t peak_memory_bytes();       // that this process has had

}  // namespace coppice
