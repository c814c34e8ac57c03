#pragma once
// `coppice bench`: how fast this machine trains, from one command. It makes LoRA jobs on random tokens and
// runs them through the very engine of `coppice run`, or writes a backbone of random weights to run them on,
// or measures the device's operators alone. What is slow is seen with --profile.
//
// Thread: main. Errors: kInvalid for a shape that cannot be, kNotFound for a backbone that is not there, and
// what a run throws.

#include <cstdint>
#include <optional>
#include <string>

#include "coordinator/device.h"

namespace coppice {

struct BenchOptions {
  std::string backbone;        // folder: trains on it
  std::string write_backbone;  // folder: writes it, in the shape below
  std::string shape = "hidden=768,intermediate=2048,layers=12,heads=12,vocabulary=32000,tied";
  bool kernels = false;
  bool parameter_server = false;
  int64_t jobs = 1;
  int64_t batch = 4;            // sequences of a step
  std::string lengths = "512";  // tokens of a sequence: a number, or a range 32-512, drawn evenly
  int64_t rank = 16;
  int64_t steps = 4;      // of each job that are measured, after one that warms up
  int64_t pack_rows = 0;  // 0: as `run` chooses
  int64_t stages = 1;     // of the pipeline, in this process
  bool checkpointing = false;
  std::string keep;  // folder for the job file, its data and the run; empty: a temporary one, removed
  bool profile = false;
  ComputeOptions compute;
};

int run_bench(const BenchOptions& options);

// A Llama of random weights (normal, deviation 0.02) as a Hugging Face folder without a tokenizer. shape:
// hidden=H,intermediate=I,layers=L,heads=N,vocabulary=V and, where wanted, kv_heads=K, positions=P, tied.
void write_random_backbone(const std::string& folder, const std::string& shape);

// GFLOP/s of a projection 2048 x 2048 on 2048 rows: what the share of a ceiling refers to. The best of
// several; by_processor: in the processor's time, for one thread on a machine with other work.
double measure_ceiling(Backend& backend, DType compute, bool by_processor);

// The device's operators alone, each with its share of the ceiling or its GB/s.
void bench_kernels(const ComputeOptions& compute);

// A step of the parameter server alone, with its share of the memory's bandwidth.
void bench_parameters(const ComputeOptions& compute);

}  // namespace coppice
