// SPDX-License-Identifier: Apache-2.0

//go:build lab && libvirt_dlopen

package lab_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/tests/lab"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
)

// open opens a session with a BMC of the lab.
func open(ctx context.Context, host, addr, dir string) (power.Conn, error) {
	if err := os.WriteFile(filepath.Join(dir, "bmc"), []byte(lab.Password+"\n"), 0o600); err != nil {
		return nil, err
	}
	secret, err := power.NewSecret(lab.User, "file:bmc", dir)
	if err != nil {
		return nil, err
	}
	return ipmi.New(nil).Open(ctx, power.Target{Host: host, Device: "bmc", Address: addr, Secret: secret})
}

// workerEnv makes this binary a worker that asks the BMC at that address for its power.
const workerEnv = "HOLDFAST_LAB_WORKER"

func workerChild() {
	addr := os.Getenv(workerEnv)
	if addr == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	err := func() error {
		dir, err := os.MkdirTemp("", "holdfast-lab-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		conn, err := open(ctx, "host", addr, dir)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		reading, err := conn.Status(ctx)
		fmt.Println(reading.State)
		return err
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// What stands where workers do reaches hosts by name and their BMCs; what a host runs at
// boot sees a boot of its own.
func TestManagerAndBoot(t *testing.T) {
	a, b := hosts(t)
	must(t, a.node.OnBoot("cat /proc/sys/kernel/random/boot_id > "+a.node.Dir()+"/booted\nhostname >> "+a.node.Dir()+"/booted\n"))
	boots := map[string]bool{}
	for range 2 {
		must(t, os.RemoveAll(filepath.Join(a.node.Dir(), "booted")))
		must(t, a.node.Off(t.Context()))
		must(t, a.node.On(t.Context()))
		wait(t, "the host's script has run", func() bool {
			text, _ := os.ReadFile(filepath.Join(a.node.Dir(), "booted"))
			f := strings.Fields(string(text))
			if len(f) == 2 && f[1] == a.node.Name {
				boots[f[0]] = true
				return true
			}
			return false
		})
	}
	if len(boots) != 2 {
		t.Errorf("two boots have ids %v", boots)
	}
	must(t, a.node.OnBoot(""))
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	wait(t, b.node.Name+" answers the manager", func() bool {
		return theLab.Manager(ctx, "virsh", "-c", b.node.Peer(), "version").Run() == nil
	})
	must(t, a.node.Off(ctx))
	for h, want := range map[*lab.Host]corepower.State{a.node: corepower.Off, b.node: corepower.On} {
		worker := theLab.Manager(ctx, os.Args[0])
		worker.Env = append(os.Environ(), workerEnv+"="+h.Remote.Addr().String())
		worker.Stderr = os.Stderr
		out, err := worker.Output()
		must(t, err)
		if got := strings.TrimSpace(string(out)); got != want.String() {
			t.Errorf("the BMC of %s reads %s, want %s", h.Name, got, want)
		}
	}
}
