// Copyright The Tagger Authors.
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	godigest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/printers"
	"oras.land/oras-go/v2"
	"sigs.k8s.io/yaml"

	"tagger.dev/tagger/pkg/apis/tagger/v1beta1"
	"tagger.dev/tagger/pkg/cmd/image/local"
)

// transferred is what a push or a pull prints.
type transferred struct {
	Namespace string          `json:"namespace"`
	Image     string          `json:"image"`
	Tag       string          `json:"tag,omitempty"`
	Reference string          `json:"reference"` // by digest, as a Pod names it
	Digest    godigest.Digest `json:"digest"`
	MediaType string          `json:"mediaType"`
	Size      int64           `json:"size"`            // bytes of all that it consists of
	Local     string          `json:"local,omitempty"` // where it lies on this machine
}

// newTransferred describes an image that was moved.
func newTransferred(name remoteName, route *route, root ocispec.Descriptor, size int64, where string) transferred {
	reference := name.repository() + "@" + root.Digest.String()
	if route.host != "" {
		reference = route.host + "/" + reference
	}
	return transferred{
		Namespace: name.namespace, Image: name.name, Tag: name.tag, Reference: reference,
		Digest: root.Digest, MediaType: root.MediaType, Size: size, Local: where,
	}
}

// The formats of --output.
const (
	formatName      = "name"
	formatReference = "reference"
	formatJSON      = "json"
	formatYAML      = "yaml"
)

// outputFlag is --output of a push or a pull.
type outputFlag struct{ format string }

func (f *outputFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.format, "output", "o", "",
		`Output format: "name", of the Image; "reference", by digest, which is what to run; "json" or "yaml".`)
	completeFlag(cmd, "output", formatName, formatReference, formatJSON, formatYAML)
}

func (f *outputFlag) validate(cmd *cobra.Command) error {
	switch f.format {
	case "", formatName, formatReference, formatJSON, formatYAML:
		return nil
	}
	return usageError(cmd, "--output must be %q, %q, %q or %q, not %q", formatName, formatReference, formatJSON, formatYAML, f.format)
}

// print prints an image that was pushed or pulled, for people with what was done.
func (f *outputFlag) print(out io.Writer, moved transferred, done string) error {
	name := fmt.Sprintf("image.%s/%s", v1beta1.GroupName, moved.Image)
	var text string
	switch f.format {
	case formatName:
		text = name + "\n"
	case formatReference:
		text = moved.Reference + "\n"
	case formatJSON:
		body, err := json.MarshalIndent(moved, "", "  ")
		if err != nil {
			return err
		}
		text = string(body) + "\n"
	case formatYAML:
		body, err := yaml.Marshal(moved)
		if err != nil {
			return err
		}
		text = string(body)
	default:
		text = fmt.Sprintf("%s %s\n  %s\n", name, done, moved.Reference)
	}
	return printers.WriteEscaped(out, text)
}

// platformFlag is --platform of a push or a pull.
type platformFlag struct{ text string }

func (f *platformFlag) add(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.text, "platform", "", usage)
	completeFlag(cmd, "platform", "linux/amd64", "linux/arm64")
}

// parse returns the platform that is asked for, nil for none.
func (f *platformFlag) parse(cmd *cobra.Command) (*ocispec.Platform, error) {
	if f.text == "" {
		return nil, nil
	}
	parts := strings.Split(f.text, "/")
	if len(parts) < 2 || len(parts) > 3 || parts[0] == "" || parts[1] == "" {
		return nil, usageError(cmd, "--platform must be OS/ARCHITECTURE, maybe with /VARIANT, as in linux/amd64, not %q", f.text)
	}
	platform := &ocispec.Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		platform.Variant = parts[2]
	}
	return platform, nil
}

// optionsFor returns the options that choose the part of an image for a platform, nil for all of it.
func optionsFor(platform *ocispec.Platform) (options oras.CopyOptions) {
	options.WithTargetPlatform(platform)
	return options
}

// locationFlag is where an image lies on this machine.
type locationFlag struct {
	flag string
	text string
}

func (f *locationFlag) add(cmd *cobra.Command, flag, usage string) {
	f.flag = flag
	cmd.Flags().StringVar(&f.text, flag, "", usage)
	completeFlagBy(cmd, flag, func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		if strings.Contains(typed, ":") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		var all []string
		for _, transport := range local.Transports() {
			all = append(all, transport+":")
		}
		return all, cobra.ShellCompDirectiveNoSpace
	})
}

// parse returns where the image lies, nil if nothing is said of it.
func (f *locationFlag) parse(cmd *cobra.Command) (*local.Location, error) {
	if f.text == "" {
		if cmd.Flags().Changed(f.flag) {
			return nil, usageError(cmd, "--%s must not be empty", f.flag)
		}
		return nil, nil
	}
	where, err := local.Parse(f.text)
	if err != nil {
		return nil, usageError(cmd, "--%s=%w", f.flag, err)
	}
	return &where, nil
}
