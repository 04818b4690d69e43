// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"github.com/holdfast-ha/holdfast/tests/proc"
)

const (
	memberStart = 30 * time.Second
	memberTick  = 50 * time.Millisecond
	// Short, so that a lost leader costs less than a lease; leases of 2 s need at most this.
	memberElection = 500 * time.Millisecond
)

// auditOf is the file that gets a member's transactions.
func auditOf(m proc.Member) string { return m.Dir + ".audit" }

// runMember is one etcd member; mostly it ends by SIGKILL. Data that only has to survive the
// process needs no fsync.
func runMember(ctx context.Context, m proc.Member) error {
	file, err := os.OpenFile(auditOf(m), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open audit: %w", err)
	}
	defer file.Close()
	return m.Run(ctx, func(cfg *embed.Config) {
		cfg.UnsafeNoFsync = true
		cfg.TickMs, cfg.ElectionMs = uint(memberTick.Milliseconds()), uint(memberElection.Milliseconds())
		cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(audit(file))}
	})
}

// transaction is one answered write as a member saw it. One that was applied while its
// member died is missing; the history still has what it wrote.
type transaction struct {
	Revision int64            `json:"rev"`
	Done     bool             `json:"done"` // its comparisons held
	From     netip.Addr       `json:"from"`
	Mod      map[string]int64 `json:"mod,omitempty"`    // keys compared by mod_revision, equal
	Create   map[string]int64 `json:"create,omitempty"` // … by create_revision
	Writes   []string         `json:"writes"`
}

// audit writes every transaction that writes, before its sender hears of it. One write
// call a line: a kill loses whole lines, the last one at most in part.
func audit(to *os.File) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		resp, err := next(ctx, req)
		txn, ok := req.(*pb.TxnRequest)
		if !ok || err != nil {
			return resp, err
		}
		x := transaction{Revision: resp.(*pb.TxnResponse).GetHeader().GetRevision(), Done: resp.(*pb.TxnResponse).GetSucceeded(), Mod: map[string]int64{}, Create: map[string]int64{}}
		for _, op := range txn.GetSuccess() {
			if put := op.GetRequestPut(); put != nil {
				x.Writes = append(x.Writes, string(put.GetKey()))
			}
			if del := op.GetRequestDeleteRange(); del != nil {
				x.Writes = append(x.Writes, string(del.GetKey()))
			}
		}
		if len(x.Writes) == 0 {
			return resp, nil
		}
		for _, c := range txn.GetCompare() {
			switch {
			case c.GetResult() != pb.Compare_EQUAL:
			case c.GetTarget() == pb.Compare_MOD:
				x.Mod[string(c.GetKey())] = c.GetModRevision()
			case c.GetTarget() == pb.Compare_CREATE:
				x.Create[string(c.GetKey())] = c.GetCreateRevision()
			}
		}
		if p, ok := peer.FromContext(ctx); ok {
			if a, err := netip.ParseAddrPort(p.Addr.String()); err == nil {
				x.From = a.Addr()
			}
		}
		line, err := json.Marshal(x)
		if err == nil {
			_, err = to.Write(append(line, '\n'))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "write audit:", err)
			os.Exit(1) // an audit with a hole that nobody knows of would prove too much
		}
		return resp, nil
	}
}

// readAudit reads what a member wrote. A line that a kill tore apart is left out.
func readAudit(file string) ([]transaction, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read audit: %w", err)
	}
	var out []transaction
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var x transaction
		if json.Unmarshal(lines.Bytes(), &x) == nil {
			out = append(out, x)
		}
	}
	return out, lines.Err()
}
