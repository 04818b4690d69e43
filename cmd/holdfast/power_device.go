// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
)

// newPowerDeviceCmd is `power device`.
func newPowerDeviceCmd(e *env) *cobra.Command {
	return group("device", "Add, change and remove the power devices of a host",
		"Changes the declaration of one host. What a device leaves out comes from the power profiles of the host's scopes (holdfast power profile get --scope host/H).\nA device that was added or changed is tested at once.",
		`  # a BMC
  holdfast power device add h-17 bmc --driver ipmi --address 10.0.3.17 --user holdfast --secret file:h-17

  # the outlets that feed the host, tried when the BMC is silent
  holdfast power device add h-17 outlets --driver pdu --address pdu-7 --param agent=fence_apc_snmp --param outlets=4,12

  # a human, when all else fails
  holdfast power device add h-17 hand --driver manual

  # another password file, and a board that was exchanged
  holdfast power device set h-17 bmc --secret file:h-17-new
  holdfast power device set h-17 bmc --new-identity`,
		newDeviceEditCmd(e, true), newDeviceEditCmd(e, false), newDeviceRemoveCmd(e))
}

// deviceFlags are the fields of a device; only those given are changed.
type deviceFlags struct {
	driver, address, user, secret, assurance string
	level                                    int
	params, unset                            []string
	newIdentity                              bool
}

func (f *deviceFlags) register(c *cobra.Command, add bool) {
	c.Flags().StringVar(&f.driver, "driver", "", "kind of driver: ipmi, redfish, fenceagent, pdu, exec, libvirt, manual")
	c.Flags().StringVar(&f.address, "address", "", "where the device is, as its driver wants it")
	c.Flags().StringVar(&f.user, "user", "", "account on the device")
	c.Flags().StringVar(&f.secret, "secret", "", "reference to its password: sealed, env:NAME or file:PATH")
	c.Flags().StringVar(&f.assurance, "assurance", "", "what a settled OFF of it proves at most, A0 to A5")
	c.Flags().IntVar(&f.level, "level", 0, "level, 1 to 9; by default 1, of a PDU 2, of manual 4")
	c.Flags().StringArrayVar(&f.params, "param", nil, "parameter of the driver, NAME=VALUE; may be given several times")
	if !add {
		c.Flags().StringArrayVar(&f.unset, "inherit", nil, "field to leave to the profile again: driver, address, user, secret, assurance, level or param.NAME")
		c.Flags().BoolVar(&f.newIdentity, "new-identity", false, "the box was exchanged: pin the identity anew at the next good test")
	}
}

// change lays the flags over a device.
func (f *deviceFlags) change(c *cobra.Command, d *v1.Device) error {
	texts := map[string]*string{"driver": &d.Driver, "address": &d.Address, "user": &d.User, "secret": &d.Secret, "assurance": &d.Assurance}
	for name, value := range map[string]string{"driver": f.driver, "address": f.address, "user": f.user, "secret": f.secret, "assurance": f.assurance} {
		if c.Flags().Changed(name) {
			*texts[name] = value
		}
	}
	if c.Flags().Changed("level") {
		d.Level = f.level
	}
	d.Params = maps.Clone(d.Params)
	for _, p := range f.params {
		name, value, ok := strings.Cut(p, "=")
		if !ok || name == "" {
			return usage(fmt.Errorf("param: %q, allowed is NAME=VALUE", p))
		}
		if d.Params == nil {
			d.Params = map[string]string{}
		}
		d.Params[name] = value
	}
	for _, name := range f.unset {
		param, isParam := strings.CutPrefix(name, "param.")
		switch field := texts[name]; {
		case field != nil:
			*field = ""
		case name == "level":
			d.Level = 0
		case isParam:
			delete(d.Params, param)
		default:
			return usage(fmt.Errorf("inherit: %q, allowed are driver, address, user, secret, assurance, level, param.NAME", name))
		}
	}
	if f.newIdentity {
		d.Enrolment, d.Identity = d.Enrolment+1, v1.Identity{}
	}
	return nil
}

func newDeviceEditCmd(e *env, add bool) *cobra.Command {
	var out outputFlags
	var f deviceFlags
	var dry bool
	c := &cobra.Command{
		Use: "set HOST DEVICE", Short: "Change a power device of a host", Args: cobra.ExactArgs(2),
		Long:              "Changes the fields that are given and keeps the others. With --inherit a field comes from the power profile again.",
		Example:           "  holdfast power device set h-17 bmc --address 10.0.4.17 --dry-run\n  holdfast power device set h-17 bmc --param cipher=17\n  holdfast power device set h-17 bmc --inherit user --inherit secret",
		ValidArgsFunction: e.completeHosts,
	}
	if add {
		c.Use, c.Short = "add HOST DEVICE", "Add a power device to a host"
		c.Long = "Adds a device to the host's declaration. It is checked before it is believed, and tested at once; at the first good test its identity is pinned."
		c.Example = "  holdfast power device add h-17 bmc --driver redfish --address 10.0.3.17 --user holdfast --secret file:h-17\n  holdfast power device add h-17 bmc --address 10.0.3.17 --dry-run\n  holdfast power device add h-17 hand --driver manual"
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		return e.editDevices(cmd.Context(), out, args[0], args[1], dry, func(devices []v1.Device) ([]v1.Device, error) {
			i := slices.IndexFunc(devices, func(d v1.Device) bool { return d.Name == args[1] })
			switch {
			case add && i >= 0:
				return nil, &hintError{fmt.Errorf("device %q: host %s has one of that name already", args[1], args[0]), "change it with holdfast power device set"}
			case add:
				devices, i = append(devices, v1.Device{Name: args[1]}), len(devices)
			case i < 0:
				return nil, noDevice(args[0], args[1], devices)
			}
			return devices, f.change(cmd, &devices[i])
		})
	}
	out.registerFormat(c)
	f.register(c, add)
	c.Flags().BoolVar(&dry, "dry-run", false, "check and show only, change nothing")
	return c
}

func newDeviceRemoveCmd(e *env) *cobra.Command {
	var out outputFlags
	var s safety
	c := &cobra.Command{
		Use: "remove HOST DEVICE", Aliases: []string{"rm"}, Short: "Remove a power device of a host", Args: cobra.ExactArgs(2),
		Long:              "Removes a device from the host's declaration, and with it its pinned identity and its sealed credentials. A host without a device that was tested is not protected any more.",
		Example:           "  holdfast power device remove h-17 outlets --dry-run\n  holdfast power device remove h-17 outlets\n  holdfast power device remove h-17 outlets --yes",
		ValidArgsFunction: e.completeHosts,
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if !s.dry {
			if err := e.confirm(cmd.Context(), s, "remove device "+args[1]+" of "+args[0], args[0]); err != nil {
				return err
			}
		}
		return e.editDevices(cmd.Context(), out, args[0], args[1], s.dry, func(devices []v1.Device) ([]v1.Device, error) {
			left := slices.DeleteFunc(slices.Clone(devices), func(d v1.Device) bool { return d.Name == args[1] })
			if len(left) == len(devices) {
				return nil, noDevice(args[0], args[1], devices)
			}
			return left, nil
		})
	}
	out.registerFormat(c)
	s.register(c)
	return c
}

func noDevice(host, name string, devices []v1.Device) error {
	if len(devices) == 0 {
		return fmt.Errorf("device %q: host %s has no power device", name, host)
	}
	var names []string
	for _, d := range devices {
		names = append(names, d.Name)
	}
	return fmt.Errorf("device %q: host %s has none of that name, allowed are %s", name, host, strings.Join(names, ", "))
}

// editDevices changes the devices of one host's declaration as it is now.
func (e *env) editDevices(ctx context.Context, out outputFlags, host, device string, dry bool, edit func([]v1.Device) ([]v1.Device, error)) error {
	o, err := out.options(e)
	if err != nil {
		return err
	}
	api, err := e.client()
	if err != nil {
		return err
	}
	h, err := api.Host(ctx, host)
	if err != nil {
		return err
	}
	spec := h.Spec
	if spec.Power, err = edit(slices.Clone(spec.Power)); err != nil {
		return err
	}
	h, err = api.PutHost(ctx, spec, h.Revision, dry)
	if err != nil {
		var p *v1.Problem
		if errors.As(err, &p) && p.Code == v1.CodeBadRequest {
			return &hintError{fmt.Errorf("device %s of %s: %w", device, host, err), "what it inherits: holdfast power profile get --scope host/" + host}
		}
		return err
	}
	return e.show(o, h.Spec, func(t *text) {
		if dry {
			t.printf("(dry run: nothing was changed)\n")
		}
		t.printf("host %s has %d power devices\n", host, len(h.Spec.Power))
		for _, d := range h.Spec.Power {
			own := []string{}
			for _, f := range []struct{ name, value string }{{"driver", d.Driver}, {"address", d.Address}, {"user", d.User}, {"secret", d.Secret}, {"assurance", d.Assurance}} {
				if f.value != "" {
					own = append(own, f.name+"="+f.value)
				}
			}
			if d.Level != 0 {
				own = append(own, fmt.Sprintf("level=%d", d.Level))
			}
			for _, name := range slices.Sorted(maps.Keys(d.Params)) {
				own = append(own, "param."+name+"="+d.Params[name])
			}
			if len(own) == 0 {
				own = []string{"all from the power profile"}
			}
			t.printf("  - %s: %s\n", d.Name, strings.Join(own, ", "))
		}
	})
}
