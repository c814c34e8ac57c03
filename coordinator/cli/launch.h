#pragma once
// How this process came to be: alone, or as one of many ranks that mpirun or srun has started. Rank 0 leads;
// the others follow until it sends them home, and the end of rank 0, also by an error, ends them all.
//
// Thread: main. Errors: kInvalid where the number of ranks is not what the options ask for, naming the
// formula.

#include <memory>

#include "coordinator/cluster.h"

namespace coppice {

class Launch {
 public:
  Launch();   // joins the others where there are any
  ~Launch();  // sends home those that still follow; ends them where they do not answer
  Launch(const Launch&) = delete;

  bool launched() const { return mpi_ != nullptr; }  // one of many
  bool leads() const;
  int follow();  // the life of a rank that does not lead; its exit status

  // Threads of a worker on this host, where its user named none.
  int default_threads(const ClusterShape& shape) const;
  // The ranks as they were launched, or all of them in this process. At most once; gone before this.
  std::unique_ptr<Cluster> cluster(Device& device, const ClusterShape& shape);
  void ended() { following_ = false; }  // all are home

 private:
  struct Mpi;  // none where this process is alone
  std::unique_ptr<Mpi> mpi_;
  bool following_ = false;  // others wait for rank 0
};

}  // namespace coppice
